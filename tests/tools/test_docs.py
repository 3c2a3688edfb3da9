"""README and docs: every Python block runs, and commands, files and links name what exists."""

import contextlib
import importlib
import inspect
import io
import json
import pkgutil
import re
import shlex
import subprocess
import sys

import keras
import pytest
import tyro

import keras_norms
import zoo
import zoo.data
import zoo.training
from tests.layers import test_errors, test_laws, test_masks, test_precision, test_serialization
from tests.support.child import ROOT
from tests.support.norms import LAYOUTS, Norm
from zoo.training import TrainOptions

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = {page: str(page.relative_to(ROOT)) for page in PAGES}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"`((?:python|make) [^`]+)`")
FILE = r"`((?:\.github|benchmarks|docs|keras_norms|scripts|tests|zoo)/[\w./-]+)`"
NAME = re.compile(r"`((?:keras_norms|zoo)(?:\.[A-Za-z_]\w*)+)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
# What shell blocks may start beside our own commands.
PROGRAMS = {"pip", "tensorboard"}
# Pages whose blocks need another backend: the tests on JAX run them, which test_backends.py starts.
BACKEND = {"docs/REPLICAS.md": "jax"}


def blocks(page, language):
    """The fenced blocks of a page, each behind so many lines that its numbers are the page's."""
    text = page.read_text()
    return [
        "\n" * text.count("\n", 0, block.start(2)) + block[2]
        for block in BLOCK.finditer(text)
        if block[1] == language
    ]


def run_blocks(page):
    """What the names of a page stand for after its blocks, which build on each other."""
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


def write_run(folder):
    """What docs/TRAINING.md reads of a run: a vocabulary, and an exported model of text."""
    vocabulary = ["", "[UNK]", "film", "see"]
    model = zoo.lstm(2, input_shape=(200,), vocabulary=len(vocabulary), width=0.05)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(folder / "saved_model")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))


def over_pages(holds=lambda page: True):
    """Parametrizes a test by the pages for which something holds."""
    return pytest.mark.parametrize("page", [*filter(holds, PAGES)], ids=NAMES.get)


@over_pages(
    lambda page: (
        blocks(page, "python") and BACKEND.get(NAMES[page], "tensorflow") == keras.config.backend()
    )
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if NAMES[page] == "docs/TRAINING.md":
        write_run(tmp_path / "runs" / "reviews")
    try:
        run_blocks(page)
    finally:
        keras.distribution.set_distribution(None)  # which a block may have set


def commands(page):
    """The commands that a page names, as lists of words."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    for line in [*lines, *COMMAND.findall(page.read_text())]:
        words = shlex.split(line, comments=True)
        while words and "=" in words[0]:  # a variable of the environment
            words.pop(0)
        if words:
            yield words


@over_pages(lambda page: any(commands(page)))
def test_commands_and_their_options_exist(page, capsys):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *words in commands(page):
        if program == "make":
            assert set(words) <= set(targets)
        elif program == "python":
            check_python(*words)
        else:
            assert program in PROGRAMS


def check_python(script, *options):
    if script == "-m":
        script, *options = options
        script = script.replace(".", "/") + ".py"
    path = ROOT / script
    source = path.read_text()
    if path.parent.name not in ("scripts", "commands"):
        named = [option for option in options if option.startswith("--")]
        assert all(option[2:].replace("-", "_") in source for option in named)
        return
    command = importlib.import_module(f"zoo.commands.{path.stem}")
    try:
        tyro.cli(getattr(command, "Options", TrainOptions), args=options)
    except SystemExit as end:  # --help ends with 0
        assert not end.code, (script, options)


@over_pages()
def test_files_and_links_exist(page):
    text = page.read_text()
    assert [name for name in re.findall(FILE, text) if not (ROOT / name).exists()] == []
    links = [target for target in LINK.findall(text) if "```" not in target]
    assert [target for target in links if not (page.parent / target).exists()] == []


@over_pages(lambda page: NAME.search(page.read_text()))
def test_names_exist(page):
    for name in set(NAME.findall(page.read_text())):
        pkgutil.resolve_name(name)


def test_functions_are_where_the_architecture_says():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    places = [(name, file) for file, name in re.findall(rf"{FILE}, `(\w+)`", text)]
    places += re.findall(rf"`(?:\w+\.)?(\w+)` \({FILE}\)", text)
    assert len(places) > 15
    for name, file in places:
        defined = rf"^ *(def|class) {name}\b|^{name} = "
        assert re.search(defined, (ROOT / file).read_text(), re.MULTILINE), (name, file)


def test_the_reference_has_every_public_name():
    text = "".join(page.read_text() for page in PAGES if page.parent.name == "api")
    shown = set(re.findall(r"^(?:::: (\S+)$|`(\S+)` is)", text, re.MULTILINE))
    shown = {name for pair in shown for name in pair}
    assert {f"keras_norms.{name}" for name in keras_norms.__all__} <= shown
    assert {f"zoo.{name}.{name}" for name in zoo.__all__} <= shown
    for room in (zoo.data, zoo.training):
        assert {f"{room.__name__}.{name}" for name in room.__all__} <= shown


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {keras_norms.__version__}\n" in citation


@pytest.mark.slow
@pytest.mark.process
def test_the_site_is_built_without_warnings(tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pages = "".join(page.read_text() for page in (site / "api").rglob("*.html"))
    for name in ("get", "BatchNormalization", "callbacks.SwitchLogger", "moments.pool"):
        assert f'id="keras_norms.{name}"' in pages
    assert "<blockquote>" not in pages  # what `>>>` would be
    assert 'src="preferences.png"' in (site / "index.html").read_text()


@pytest.fixture(scope="module")
def new_norm():
    """The class that docs/ARCHITECTURE.md writes."""
    return run_blocks(ROOT / "docs" / "ARCHITECTURE.md")["FilterResponseNormalization"]


LAWS = {
    test_laws.test_samples_do_not_see_each_other: {},
    test_masks.test_each_sample_is_as_if_alone_and_truncated: {},
    test_masks.test_result_is_that_on_truncated_input: {"axis": 1, "padding": 1e6},
    test_precision.test_gradients_in_mixed_precision: {"policy": "mixed_float16"},
    test_serialization.test_configurations: {"full": True},
    test_serialization.test_every_constructor_argument_is_in_the_configuration: {},
    test_serialization.test_options_reach_their_weights: {},
    test_errors.test_axis_out_of_range: {"axis": 4},
    test_errors.test_unknown_channels: {},
}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_new_norm_obeys_the_laws(law, new_norm, rng):
    norm = Norm("frn", new_norm, needs_spatial=True)
    random = {"rng": rng} if "rng" in inspect.signature(law).parameters else {}
    law(norm, **LAWS[law], **random)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.spatial], ids=str)
def test_the_new_norm_computes_its_equation(layout, new_norm, rng):
    x = rng.normal(2, 3, layout.shape)
    layer = new_norm(dtype="float64", epsilon=1e-6, **layout.arguments)
    mean_square = (x**2).mean(layout.spatial, keepdims=True)
    expected = x / (mean_square + 1e-6) ** 0.5
    assert abs(keras.ops.convert_to_numpy(layer(x)) - expected).max() < 1e-9
