"""Every public name is typed, documented, and shown by an example that runs as a doctest."""

import doctest
import inspect

import pytest

import keras_norms

# The classes and functions of `keras_norms` and of its public module `callbacks`.
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (keras_norms, keras_norms.callbacks)
    for name in getattr(module, "__all__", vars(module))
    if inspect.isclass(getattr(module, name)) or inspect.isfunction(getattr(module, name))
    if module is keras_norms or getattr(module, name).__module__ == module.__name__
    if not name.startswith("_")
} | {"keras_norms.registry.Norm": keras_norms.registry.Norm}  # which `get` returns
NO_EXAMPLE = ("keras_norms.registry.Norm",)  # `get` shows it


def own_classes(cls):
    """`cls` and the bases that this package defines."""
    return [base for base in cls.__mro__ if base.__module__.startswith("keras_norms.")]


def methods(cls):
    """`{name: function}` of the constructor, public methods and properties that are ours."""
    found = {}
    for base in own_classes(cls):
        for name, value in vars(base).items():
            value = value.fget if isinstance(value, property) else value
            if inspect.isfunction(value) and (name == "__init__" or not name.startswith("_")):
                found.setdefault(name, value)
    return found


FUNCTIONS = {
    f"{name}.{method}": function
    for name, cls in PUBLIC.items()
    if inspect.isclass(cls)
    for method, function in methods(cls).items()
} | {name: function for name, function in PUBLIC.items() if inspect.isfunction(function)}


def overrides(name):
    """Whether a method is one of a base class too, of Keras or ours, which documents it."""
    owner, _, method = name.rpartition(".")
    cls = PUBLIC.get(owner)
    holders = [base for base in (cls.__mro__ if cls else ()) if method in vars(base)]
    return len(holders) > 1


def test_the_public_names_are_found():
    classes = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
    assert {f"keras_norms.{name}" for name in keras_norms.__all__} - set(PUBLIC) == {
        "keras_norms.NAMES",
        "keras_norms.__version__",
        "keras_norms.callbacks",
    }
    assert "keras_norms.callbacks.SwitchLogger" in classes
    assert "keras_norms.WeightNormalization.initialize" in FUNCTIONS
    assert "keras_norms.SwitchableNormalization.update_moving" in FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_has_a_type(name):
    signature = inspect.signature(FUNCTIONS[name])
    untyped = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.name != "self" and parameter.annotation is parameter.empty
    ]
    assert not untyped
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", [name for name in PUBLIC | FUNCTIONS if not overrides(name)])
def test_everything_has_a_docstring(name):
    assert (PUBLIC | FUNCTIONS)[name].__doc__


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in NO_EXAMPLE])
def test_every_name_has_an_example(name):
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(PUBLIC[name]))
    own = name.rpartition(".")[-1]
    assert any(own in example.source for example in examples), "no example uses it"
    assert any(example.want for example in examples), "no example shows a result"
