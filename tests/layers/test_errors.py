"""Every error says what was wrong, what was received, and what would be right.

Runs on every backend, as test_laws does.
"""

import re

import keras
import numpy as np
import pytest

import keras_norms
from keras_norms import (
    BatchInstanceNormalization,
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    MeanOnlyBatchNormalization,
    SwitchableNormalization,
)
from tests.support.norms import BY_NAME, MOVING, NORMS, over


def says(*parts):
    """A pattern for all `parts` in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in parts)


@over()
@pytest.mark.parametrize("axis", [4, -5])
def test_axis_out_of_range(norm, axis):
    parts = (f"Axis {axis}", "out of bounds", "(2, 3, 3, 8)", "between -4 and 3", f"axis={axis}")
    with pytest.raises(ValueError, match=says(*parts)):
        norm(axis=axis)(np.ones((2, 3, 3, 8)))
    with pytest.raises(ValueError, match=says(*parts)):
        norm(axis=axis).compute_output_shape((2, 3, 3, 8))
    with pytest.raises(ValueError, match=says("Axis", "out of bounds", f"batch_axis={axis}")):
        norm(batch_axis=axis)(np.ones((2, 3, 3, 8)))


@over()
@pytest.mark.parametrize("axis", [1.0, "1", None, [1], True], ids=repr)
def test_axis_that_is_no_integer(norm, axis):
    with pytest.raises(ValueError, match=says("`axis` must be an int", f"axis={axis!r}")):
        norm(axis=axis)


@pytest.mark.parametrize("axis", [1.0, "1", None, (0, None), (0.0, 1), (True,)], ids=repr)
def test_batch_axis_that_is_no_integer(axis):
    with pytest.raises(ValueError, match=says("`batch_axis` must be an int", "Received")):
        BatchNormalization(batch_axis=axis)


@over()
@pytest.mark.parametrize("axis", [-1, 3, (0, 3), (0, -4), (1, 1), ()], ids=repr)
def test_batch_axis_that_clashes(norm, axis):
    parts = ("different axes", "not the channel axis", f"batch_axis={axis}", "axis=-1")
    with pytest.raises(ValueError, match=says(*parts, "(2, 3, 3, 8)")):
        norm(batch_axis=axis)(np.ones((2, 3, 3, 8)))


@over()
def test_unknown_channels(norm):
    parts = ("Axis -1", "defined dimension", "(None, 3, 3, None)", "number of channels")
    with pytest.raises(ValueError, match=says(*parts)):
        norm()(keras.Input((3, 3, None)))


@over()
def test_another_number_of_channels_or_axes(norm):
    layer = norm()
    layer(np.ones((2, 3, 3, 8)))
    with pytest.raises(ValueError, match=says("expected axis 3 of", "value 8", "(2, 3, 3, 4)")):
        layer(np.ones((2, 3, 3, 4)))
    with pytest.raises(ValueError, match=says("expected ndim=4", "found ndim=3", "(2, 3, 8)")):
        layer(np.ones((2, 3, 8)))


@over([norm for norm in NORMS if norm.name != "mean_only_bn"])
def test_epsilon(norm):
    with pytest.raises(ValueError, match=says("`epsilon`", "negative", "epsilon=-0.1")):
        norm(epsilon=-0.1)


@over(MOVING)
@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_momentum(norm, momentum):
    with pytest.raises(ValueError, match=says("`momentum`", "[0, 1]", f"momentum={momentum}")):
        norm(momentum=momentum)


@over()
def test_unknown_argument(norm):
    with pytest.raises((ValueError, TypeError), match="renormalise"):
        norm(renormalise=True)


@pytest.mark.parametrize("groups", [0, -2, 1.5, "32", True, None, "Auto", [2]], ids=repr)
@pytest.mark.parametrize("cls", [GroupNormalization, SwitchableNormalization])
def test_groups_that_are_no_number(cls, groups):
    parts = ("argument `groups`", "positive integer", "-1", "'auto'", f"groups={groups!r}")
    with pytest.raises(ValueError, match=says(*parts)):
        cls(groups=groups)


@pytest.mark.parametrize("make", [GroupNormalization, BY_NAME["sn_all"]])
def test_groups_that_do_not_divide(make):
    x = np.ones((2, 3, 3, 4))
    parts = ("number of channels (4)", "multiple", "number of groups (3)", "divisor of 4")
    with pytest.raises(ValueError, match=says(*parts)):
        make(groups=3)(x)
    parts = ("groups (5)", "more than the number of channels (4)", "divisor of 4")
    with pytest.raises(ValueError, match=says(*parts)):
        make(groups=5)(x)


@over([norm for norm in NORMS if norm.needs_spatial])
@pytest.mark.parametrize("shape, batch_axis", [((2, 8), 0), ((2, 5, 8), (0, 1))], ids=str)
def test_no_spatial_axis(norm, shape, batch_axis):
    parts = (norm.cls.__name__, "spatial axis", str(shape), f"batch_axis={batch_axis}")
    with pytest.raises(ValueError, match=says(*parts, "use GroupNormalization")):
        norm(batch_axis=batch_axis)(np.ones(shape))


def test_instance_statistics_alone_need_a_spatial_axis():
    with pytest.raises(ValueError, match=says("SwitchableNormalization", "spatial axis", "(2, 8)")):
        SwitchableNormalization(statistics=("instance",))(np.ones((2, 8)))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (InstanceNormalization, (2, 1, 1, 8)),
        (GroupNormalization, (2, 1, 1, 32)),
        (lambda: GroupNormalization(-1), (2, 1, 8)),
        (lambda: GroupNormalization(8), (2, 8)),
        (lambda: GroupNormalization(1), (2, 1)),
        (lambda: GroupNormalization(1, batch_axis=(0, 1)), (2, 5, 1)),
    ],
)
def test_single_elements(layer, shape):
    with pytest.raises(ValueError, match=says("single element", str(shape), "fewer groups")):
        layer()(np.ones(shape))


@pytest.mark.parametrize(
    "statistics", [(), "batch", ("batch", "spectral"), ("layer", None), [], ("layer", 3)], ids=repr
)
def test_unknown_statistics(statistics):
    names = ("'instance'", "'group'", "'layer'", "'batch'")
    with pytest.raises(ValueError, match=says("non-empty", *names, f"{statistics!r}")):
        SwitchableNormalization(statistics=statistics)


def test_a_statistic_listed_twice():
    with pytest.raises(ValueError, match=says("once", "('layer', 'layer')")):
        SwitchableNormalization(statistics=("layer", "layer"))


@pytest.mark.parametrize(
    "argument",
    ["epsilon", "scale", "gamma_initializer", "gamma_regularizer", "gamma_constraint"]
    + ["moving_variance_initializer"],
)
def test_mean_only_has_no_variance_and_no_gamma(argument):
    with pytest.raises(TypeError, match=says("MeanOnlyBatchNormalization", f"`{argument}`")):
        MeanOnlyBatchNormalization(**{argument: None})
    assert argument not in MeanOnlyBatchNormalization().get_config()


@pytest.mark.parametrize(
    "cls", [BatchNormalization, BatchInstanceNormalization, GroupNormalization]
)
def test_options_are_keyword_only(cls):
    with pytest.raises(TypeError, match="positional"):
        cls(1, 1, 0.1, True, True, "zeros")


def test_names_are_public():
    for name in (
        "BatchNormalization GroupNormalization InstanceNormalization MeanOnlyBatchNormalization "
        "BatchInstanceNormalization SwitchableNormalization"
    ).split():
        cls = getattr(keras_norms, name)
        assert keras.saving.get_registered_name(cls) == f"keras_norms>{name}"
        assert cls.__doc__ and "Args:" in cls.__doc__ and "Reference:" in cls.__doc__


@pytest.mark.parametrize("statistics", [5, [["batch"]], (), "batch", {"batch"}, ("batch", "mode")])
def test_statistics_is_a_sequence_of_names(statistics):
    with pytest.raises(ValueError, match="`statistics`.*Received"):
        keras_norms.SwitchableNormalization(statistics=statistics)


@pytest.mark.parametrize(
    "clipping",
    [{"rmax": 0.0}, {"rmin": 2, "rmax": 1}, {"dmax": -1}, {"other": 1}, 3, {"rmax": "x"}],
)
def test_limits_of_renormalization(clipping):
    with pytest.raises(ValueError, match="renorm_clipping|rmax"):
        BY_NAME["bn"](renorm=True, renorm_clipping=clipping)


ONE_VALUE = {
    "vectors": ((1, 10), {}),
    "maps of one pixel": ((1, 1, 1, 10), {}),
    "ghost batches of one": ((4, 10), {"ghost_batch_size": 1}),
    "one sequence a step": ((1, 3, 10), {"batch_axis": (0, 1), "max_steps": 2}),
}


@pytest.mark.parametrize("name", ["bn", "mean_only_bn"])
@pytest.mark.parametrize("case", ONE_VALUE)
def test_one_value_a_channel(name, case):
    shape, options = ONE_VALUE[case]
    layer = BY_NAME[name](**options)
    x = np.ones(shape, "float32")
    layer(x, training=False)
    with pytest.raises(ValueError, match=says("one value", str(shape), "GroupNormalization")):
        layer(x, training=True)
    layer.trainable = False
    layer(x, training=True)
    for other in ("sn", "ln"):
        y = BY_NAME[other]()(np.ones((1, 10), "float32"), training=True)
        assert np.isfinite(keras.ops.convert_to_numpy(y)).all()
