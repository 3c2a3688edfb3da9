"""Imports point one way: docs/ARCHITECTURE.md names the floors."""

import ast
import graphlib

import pytest

from tests.support.child import ROOT, run_code

# What each part of the project may import of the others.
BELOW = {
    "keras_norms": set(),
    "keras_norms.surgery": {"keras_norms"},
    "keras_norms.selection": {"keras_norms", "keras_norms.surgery"},
    "keras_norms.tensorboard": {"keras_norms"},  # TensorBoard loads it
    "zoo": {"keras_norms"},  # the models
    "zoo.data": {"keras_norms"},
    "zoo.training": {"zoo.data", "zoo", "keras_norms"},
    "zoo.laboratory": {"zoo.training", "zoo.data", "zoo", "keras_norms"},
    "zoo.commands": {"zoo.laboratory", "zoo.training", "zoo.data", "zoo", "keras_norms"},
    "scripts": {"zoo.commands"},
}
# What each part of the laboratory may import of the others; more of it is free within `BELOW`.
LABORATORY = {
    "studies": {"studies", "claims", "tasks", "study", "figures", "shares"},
    "claims": {"claims", "study"},
    "tasks": {"tasks", "study", "measuring"},
    "study": set(),
    "figures": {"study"},
    "shares": {"study"},
    "judge": {"study"},
    "measuring": set(),
}
# What is imported only where it is used, so that the layers need nothing but Keras.
OPTIONAL = {"tensorflow", "tensorboard", "matplotlib", "rich", "scipy", "markdown", "zoo"}
# Those that may import some of these at once, since nothing but their host imports them.
HOSTED = {"keras_norms.tensorboard": {"tensorboard"}}


def find_modules():
    """`{name: its syntax tree}` of all modules of the project."""
    files = [
        file for part in ("keras_norms", "zoo", "scripts") for file in (ROOT / part).rglob("*.py")
    ]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return {
        name.removesuffix(".__init__"): ast.parse(file.read_text())
        for name, file in zip(names, files, strict=True)
    }


MODULES = find_modules()


def imported(nodes):
    """The names of the modules that these nodes of a syntax tree import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def at_import(tree):
    """The nodes of a module that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_checkers and not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            yield node
            yield from at_import(node)


def part_of(module):
    """The part of the project that a module belongs to; None for those of others."""
    parts = module.split(".")
    return next((p for p in (".".join(parts[:2]), parts[0]) if p in BELOW), None)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"keras_norms"}))  # which exports all
def test_imports_point_down(module):
    own = part_of(module)
    for name in imported(ast.walk(MODULES[module])):
        other = part_of(name)
        assert other in {None, own} | BELOW[own], f"{module} imports {name}"


@pytest.mark.parametrize("part", LABORATORY)
def test_studies_are_on_top_of_the_laboratory(part):
    prefix = "zoo.laboratory."
    modules = [name for name in MODULES if f"{name}.".startswith(f"{prefix}{part}.")]
    assert modules
    for module in modules:
        for name in imported(ast.walk(MODULES[module])):
            if name.startswith(prefix):
                other = name.removeprefix(prefix).split(".")[0]
                assert other in LABORATORY[part], f"{module} imports {name}"


def test_no_modules_import_each_other():
    graph = {name: {*imported(at_import(tree))} & set(MODULES) for name, tree in MODULES.items()}
    assert sum(map(len, graph.values())) > 100
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the cycle


@pytest.mark.parametrize(
    "module", [name for name in MODULES if f"{name}.".startswith("keras_norms.")]
)
def test_layers_import_nothing_optional(module):
    names = {name.split(".")[0] for name in imported(at_import(MODULES[module]))}
    assert not names & OPTIONAL - HOSTED.get(part_of(module), set())


def test_importing_the_layers_loads_keras_alone():
    code = f"""
        import sys, keras
        before = set(sys.modules)  # Keras itself loads what it finds
        import keras_norms
        print(sorted({OPTIONAL} & (set(sys.modules) - before)))
    """
    assert run_code(code, KERAS_BACKEND="jax") == "[]\n"


def test_importing_the_zoo_loads_nothing():
    code = "import sys, zoo; print('keras' in sys.modules, 'keras_norms' in sys.modules)"
    assert run_code(code) == "False False\n"
