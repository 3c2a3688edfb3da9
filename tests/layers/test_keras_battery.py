"""Keras's tests of saving, cloning and recurrent layers, with our layers in the place of Keras's.

Whole test files of the installed Keras run; nothing of them is copied here. `SUITES` says which,
and with which layers. What cannot pass is listed there with the reason, and must go on to fail.
"""

import functools
import importlib.util
import inspect
import pathlib
import pickle
import types
from typing import NamedTuple

import keras
import pytest
from keras.src import layers, testing

import keras_norms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Keras's tests provoke warnings
]


class _Wrapped(type):
    """The type of a class that stands for `plain`, but whose objects are wrapped."""

    def __call__(cls, *args, input_shape=None, **kwargs):
        layer = cls.plain(*args, **kwargs)
        shape = {} if input_shape is None else {"input_shape": input_shape}
        return keras_norms.WeightNormalization(layer, name=layer.name, **shape)

    def __instancecheck__(cls, layer):
        wrapper = keras_norms.WeightNormalization
        return isinstance(layer, wrapper) and isinstance(layer.layer, cls.plain)


def wrapped(*names):
    """`{name: a class whose objects are layers of that name under WeightNormalization}`."""
    return {name: _Wrapped(name, (), {"plain": getattr(layers, name)}) for name in names}


NORMS = {
    "BatchNormalization": keras_norms.BatchNormalization,
    "GroupNormalization": keras_norms.GroupNormalization,
}
RECURRENT = {
    "LSTM": functools.partial(keras_norms.NormalizedLSTM, norm="none"),
    "LSTMCell": functools.partial(keras_norms.NormalizedLSTMCell, norm="none"),
    "GRU": functools.partial(keras_norms.NormalizedGRU, norm="none"),
    "GRUCell": functools.partial(keras_norms.NormalizedGRUCell, norm="none"),
}
KERNELS = wrapped("Dense", "Embedding", "EinsumDense", "Conv1D", "Conv2D")
ALL = NORMS | RECURRENT | KERNELS


class Suite(NamedTuple):
    """A test file of Keras and the layers that it gets.

    Attributes:
        module: the file's module below `keras.src`.
        ours: `{name of a layer in Keras: what stands in its place}`.
        failing: `{test: (the exception that it ends in, why it cannot pass)}`.
    """

    module: str
    ours: dict
    failing: dict = {}


_COUNTS = AssertionError, "counts the weights or layers that a plain layer has"
_PLAIN = AssertionError, "asks for the class of a layer that its config in the test makes"
_ASSIGNS = AttributeError, "assigns to the kernel, which is computed"
_BIDIRECTIONAL = AttributeError, "looks into Bidirectional, whose layers hold the directions"
SUITES = {
    "saving": Suite(
        "saving.saving_lib_test",
        ALL,
        {
            "test_h5_io_store_lora": (
                NotImplementedError,
                "enables LoRA, which the wrapper refuses",
            ),
            "test_load_model_concurrently": (
                pickle.PicklingError,
                "sends a function of its module to a process, which cannot import it from here",
            ),
            "test_legacy_load_skips_missing_nested_containers": (
                AssertionError,
                "reads a file that installed Keras does not have",
            ),
        }
        | dict.fromkeys(
            [f"test_nested_container_layer_saving_{kind}" for kind in ("dict", "list", "tuple")],
            _ASSIGNS,
        ),
    ),
    "saving_api": Suite(
        "saving.saving_api_test",
        ALL,
        {"test_objects_to_skip": (AssertionError, "takes the second weight for the bias")},
    ),
    "serialization": Suite(
        "saving.serialization_lib_test",
        ALL,
        dict.fromkeys(
            [
                "test_empty_string_registered_name_passes_through",
                "test_none_or_missing_registered_name_passes_through",
                "test_registered_name_matching_class_name_passes_through",
            ],
            _PLAIN,
        ),
    ),
    "cloning": Suite("models.cloning_test", ALL, {"test_recursive": _COUNTS}),
    "time_distributed": Suite("layers.rnn.time_distributed_test", ALL, {"test_basics": _COUNTS}),
    "bidirectional": Suite("layers.rnn.bidirectional_test", RECURRENT),
    "wrapped_bidirectional": Suite(
        "layers.rnn.bidirectional_test",
        wrapped("Bidirectional"),
        {
            "test_basics": _COUNTS,
            "test_fused_gru_eligibility": _BIDIRECTIONAL,
            "test_fused_lstm_eligibility": _BIDIRECTIONAL,
            "test_keeps_use_cudnn": _BIDIRECTIONAL,
        },
    ),
    "stacked_cells": Suite("layers.rnn.stacked_rnn_cells_test", RECURRENT),
    "lstm": Suite("layers.rnn.lstm_test", RECURRENT),
    "wrapped_lstm": Suite("layers.rnn.lstm_test", wrapped("LSTM"), {"test_basics": _COUNTS}),
    "gru": Suite(
        "layers.rnn.gru_test",
        RECURRENT,
        {
            "test_legacy_implementation_argument": (
                AttributeError,
                "asks for a method of the class, for which a function stands",
            ),
        },
    ),
    "wrapped_gru": Suite(
        "layers.rnn.gru_test",
        wrapped("GRU"),
        {
            "test_basics": _COUNTS,
            "test_legacy_implementation_argument": (
                AttributeError,
                "makes the layer from the config of a plain one",
            ),
        },
    ),
    "wrapped_simple_rnn": Suite(
        "layers.rnn.simple_rnn_test", wrapped("SimpleRNN"), {"test_basics": _COUNTS}
    ),
}


def replaced(package, **ours):
    """`package` with other objects under some names."""
    return types.SimpleNamespace(**{**vars(package), **ours})


def load(name):
    """The test classes of a suite, as `{name: class}`."""
    suite = SUITES[name]
    path = importlib.util.find_spec(f"keras.src.{suite.module}").origin
    module = types.ModuleType(f"{__name__}.{name}")
    module.__file__ = path
    exec(compile(pathlib.Path(path).read_text(), path, "exec"), vars(module))
    # The tests call either `layers.Dense` or `keras.layers.Dense`.
    ours = {
        "layers": replaced(layers, **suite.ours),
        "keras": replaced(keras, layers=replaced(keras.layers, **suite.ours)),
    }
    vars(module).update({key: value for key, value in ours.items() if hasattr(module, key)})
    tests = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, testing.TestCase)
        if value.__module__ == module.__name__
    ]
    for test, (exception, reason) in suite.failing.items():
        (owner,) = [cls for cls in tests if hasattr(cls, test)]
        mark = pytest.mark.xfail(raises=exception, reason=reason, strict=True)
        setattr(owner, test, mark(getattr(owner, test)))
    return {f"{name}_{cls.__name__}": cls for cls in tests}


LOADED = {name: load(name) for name in SUITES}
for _tests in LOADED.values():
    globals().update(_tests)


def test_every_suite_has_tests_that_see_our_layers():
    for name, suite in SUITES.items():
        tests = [
            getattr(cls, test)
            for cls in LOADED[name].values()
            for test in dir(cls)
            if test.startswith("test_")
        ]
        assert len(tests) >= 4 + len(suite.failing)
        seen = inspect.unwrap(tests[0]).__globals__
        seen = seen["layers"] if "layers" in seen else seen["keras"].layers
        for layer, ours in suite.ours.items():
            assert getattr(seen, layer) is ours
        assert seen.Flatten is layers.Flatten


def test_a_wrapped_class_makes_wrapped_layers():
    layer = KERNELS["Dense"](3, name="dense")
    assert isinstance(layer, KERNELS["Dense"]) and not isinstance(layer, KERNELS["Conv1D"])
    assert isinstance(layer, keras_norms.WeightNormalization) and layer.name == "dense"
    assert not isinstance(layers.Dense(3), KERNELS["Dense"])
