"""Keras's own tests, with our classes in the place of Keras's.

The sources come from the installed Keras; nothing of them is copied here. TensorFlow by default;
`KERAS_BACKEND=jax pytest tests/layers/test_keras_suites.py` runs them on JAX.
"""

import importlib.util
import pathlib
import types

import keras
import pytest
from keras.src import layers, testing

import keras_norms
from tests.support.norms import NORMS, over

# Keras's `run_layer_test` fits on a generator, its test of BatchNormalization nothing at all.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning"),
]


class Layers(types.SimpleNamespace):
    """`keras.layers` with our classes where we have one of that name."""

    def __getattr__(self, name):
        return getattr(layers, name)


def suite(module, name, replace=None):
    """The test class `name` of a test module of Keras, run on our layers."""
    path = importlib.util.find_spec(f"keras.src.layers.normalization.{module}").origin
    source = pathlib.Path(path).read_text()
    for old, new in (replace or {}).items():
        assert source.count(old) == 1, f"Keras's test no longer says {old!r}"
        source = source.replace(old, new)
    namespace = {"__name__": f"{__name__}.{module}", "__file__": path}
    exec(compile(source, path, "exec"), namespace)
    namespace["layers"] = Layers(
        BatchNormalization=keras_norms.BatchNormalization,
        GroupNormalization=keras_norms.GroupNormalization,
    )
    tests = namespace[name]
    assert issubclass(tests, testing.TestCase)
    return tests


GroupNormalizationTest = suite(
    "group_normalization_test",
    "GroupNormalizationTest",
    # Keras's message is backwards.
    {
        '"must be a multiple of the number of channels"': (
            r'"channels .4. must be a multiple of the number of groups .3."'
        )
    },
)
BatchNormalizationTest = suite("batch_normalization_test", "BatchNormalizationTest")


def test_the_suites_are_whole():
    for suite, least in ((GroupNormalizationTest, 12), (BatchNormalizationTest, 31)):
        assert sum(name.startswith("test_") for name in dir(suite)) >= least


def test_the_suites_see_our_classes():
    for test in (GroupNormalizationTest.test_groupnorm, BatchNormalizationTest.test_bn_basics):
        seen = test.__globals__["layers"]
        assert seen.BatchNormalization is keras_norms.BatchNormalization
        assert seen.GroupNormalization is keras_norms.GroupNormalization
        assert seen.Masking is keras.layers.Masking


SHAPES = [(3, 4, 8), (2, 4, 3, 8)]
WEIGHTS = {  # trainable, not trainable
    "bn": (2, 2),
    "bn_renorm": (2, 5),
    "mean_only_bn": (1, 1),
    "bin": (3, 2),
    "sn": (4, 2),
    "sn_all": (4, 2),
    "sn_no_batch": (4, 0),
}


class Runner(testing.TestCase):
    def runTest(self):
        pass


@over()
@pytest.mark.parametrize(
    "shape", [pytest.param(SHAPES[0], marks=pytest.mark.slow), SHAPES[1]], ids=str
)
def test_run_layer_test(norm, shape):
    """Build, symbolic and eager calls, training, serialization and mixed precision."""
    regularized = {"beta_regularizer": "l2"}
    if norm.name != "mean_only_bn":
        regularized["gamma_regularizer"] = "l2"
    trainable, rest = WEIGHTS.get(norm.name, (2, 0))
    Runner().run_layer_test(
        norm.cls,
        init_kwargs={**norm.options, **regularized},
        call_kwargs={"training": True},
        input_shape=shape,
        expected_output_shape=shape,
        expected_num_trainable_weights=trainable,
        expected_num_non_trainable_weights=rest,
        expected_num_seed_generators=0,
        expected_num_losses=len(regularized),
        supports_masking=True,
    )


@pytest.mark.parametrize("norm", [norm for norm in NORMS if not norm.needs_spatial], ids=str)
def test_run_layer_test_on_vectors(norm):
    Runner().run_layer_test(
        norm.cls,
        init_kwargs=norm.options,
        input_shape=(3, 8),
        expected_output_shape=(3, 8),
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=True,
        run_training_check=norm.name in ("bn", "sn"),
    )
