"""`max_steps`: batch statistics of each time step; `apply` and `move`, which loops over time use.

Runs on every backend, as test_laws does.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from tests.support import reference
from tests.support.norms import BY_NAME, DTYPE, assert_close, over, values
from tests.support.running import forward, tensor, to_numpy

STEPS = 5


@dataclasses.dataclass(frozen=True)
class Layout:
    """A shape with `STEPS` steps on its axis of time."""

    shape: tuple
    axis: int
    batch_axis: tuple

    @property
    def time(self):
        return max(axis % len(self.shape) for axis in self.batch_axis)

    @property
    def arguments(self):
        return {"axis": self.axis, "batch_axis": self.batch_axis}

    def steps(self, array, *numbers):
        return None if array is None else np.take(array, numbers, self.time)

    def mask(self, rng):
        """A mask over all but what is behind the last sample or step, with an empty last step."""
        last = max(self.time, *(axis % len(self.shape) for axis in self.batch_axis)) + 1
        shape = list(self.shape[:last])
        if self.axis % len(self.shape) < last:
            shape[self.axis] = 1
        mask = rng.random(shape) < 0.7
        mask[(slice(None),) * self.time + (-1,)] = False
        return mask

    def __str__(self):
        return f"{'x'.join(map(str, self.shape))}-{self.axis}-{self.batch_axis}"


TOKENS = Layout((4, STEPS, 8), -1, (0, 1))
IMAGES = Layout((3, STEPS, 4, 8), -1, (0, 1))
LAYOUTS = (
    TOKENS,
    Layout((4, 8, STEPS), 1, (0, 2)),
    IMAGES,
    Layout((4, 3, STEPS, 8), 3, (-2, 0)),
    Layout((4, 8, 3, STEPS), 1, (0, -1)),
    Layout((2, 3, 8, STEPS, 2), 2, (0, 1, 3)),
)
NORMS = tuple(BY_NAME[name] for name in ("bn", "mean_only_bn", "sn", "sn_all", "bin"))
ON_TOKENS = tuple(norm for norm in NORMS if not norm.needs_spatial)


def layer_of(norm, layout, rng, max_steps=STEPS, seen=STEPS, **kwargs):
    """A layer with random weights that has seen so many steps."""
    layer = norm(**{"dtype": DTYPE, "max_steps": max_steps, **layout.arguments, **kwargs})
    layer.build(layout.shape)
    for weight in layer.weights:
        low, high = {"moving_variance": (0.5, 2), "gate": (0.1, 0.9)}.get(weight.name, (-1, 2))
        weight.assign(rng.uniform(low, high, weight.shape))
    layer.moving_steps.assign(seen)
    return layer


def expected(layer, layout, x, mask=None, training=False, first_step=0):
    """`(y, moving)` as if there was a layer for each step, each with its row of the statistics."""
    weights = values(layer)
    last = int(weights.pop("moving_steps"))
    names = [name for name in weights if name.startswith("moving_")]
    outputs, new = [], {name: {} for name in names}
    for number in range(x.shape[layout.time]):
        step = first_step + number
        row = min(step, layer.max_steps - 1 if training else max(last, 1) - 1)
        own = weights | {name: weights[name][row] for name in names}
        here, valid = layout.steps(x, number), layout.steps(mask, number)
        y, after = reference.expected(layer, here, valid, training, own)
        outputs.append(y)
        count = here[0].size if valid is None else valid.sum()
        if training and count:
            for name in names:
                new[name].setdefault(row, []).append((after[name], count))
            last = max(last, row + 1)
    for name in names:
        for row, steps in new[name].items():
            rows, counts = zip(*steps, strict=True)
            weights[name][row] = np.average(rows, 0, weights=counts)
    moving = {name: weights[name] for name in names} | {"moving_steps": last}
    return np.concatenate(outputs, layout.time), moving


def check(layer, layout, x, mask=None, trainings=(False, True)):
    for training in trainings:
        y, moving = expected(layer, layout, x, mask, training)
        result = forward(layer, x, training, mask)
        valid = np.ones(x.shape, bool)
        if mask is not None:
            valid &= mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        assert_close(result[valid], y[valid])
        after = values(layer)
        for name, value in moving.items():
            assert_close(after[name], value)


@pytest.mark.parametrize(
    "norm, layout, masked",
    [
        pytest.param(
            norm,
            layout,
            masked,
            id=f"{norm}-{layout}{'-masked' if masked else ''}",
            marks=[] if (i + j + masked) % 2 == 0 else pytest.mark.slow,
        )
        for i, norm in enumerate(NORMS)
        for j, layout in enumerate(LAYOUTS)
        for masked in (False, True)
        if not norm.needs_spatial or len(layout.shape) - len(layout.batch_axis) > 1
    ],
)
def test_one_layer_for_each_step(norm, layout, masked, rng):
    layer = layer_of(norm, layout, rng)
    assert layer.moving_mean.shape == (STEPS, 8)
    mask = layout.mask(rng) if masked else None
    check(layer, layout, rng.normal(2, 3, layout.shape), mask)


@pytest.mark.parametrize("layout", [TOKENS, *LAYOUTS[1:3]], ids=str)
@over([BY_NAME["bn"], BY_NAME["sn_all"]])
def test_the_last_row_serves_all_later_steps(norm, layout, rng):
    """It moves by the mean of their own statistics, weighted by their counts."""
    for max_steps in (1, 3):
        layer = layer_of(norm, layout, rng, max_steps, seen=max_steps)
        check(layer, layout, rng.normal(2, 3, layout.shape), layout.mask(rng))


@over(ON_TOKENS)
@pytest.mark.parametrize("seen", [0, 1, 3])
def test_steps_that_training_has_not_seen_use_the_last_one_it_has(norm, seen, rng):
    layer = layer_of(norm, TOKENS, rng, 8, seen)
    check(layer, TOKENS, rng.normal(2, 3, TOKENS.shape), trainings=[False])
    short = rng.normal(2, 3, (4, 2, 8))
    check(layer, TOKENS, short, trainings=[True, False])
    assert values(layer)["moving_steps"] == max(seen, 2)
    long = rng.normal(2, 3, (4, 11, 8))
    check(layer, TOKENS, long)
    assert values(layer)["moving_steps"] == 8


def test_statistics_start_at_zero_and_one_for_each_step(rng):
    layer = keras_norms.BatchNormalization(max_steps=3, batch_axis=(0, 1), epsilon=0.0)
    x = rng.normal(2, 3, TOKENS.shape).astype("float32")
    assert_close(forward(layer, x), x, 1e-6)
    assert values(layer)["moving_steps"] == 0
    np.testing.assert_array_equal(layer.moving_mean, np.zeros((3, 8)))
    np.testing.assert_array_equal(layer.moving_variance, np.ones((3, 8)))


@over(ON_TOKENS)
def test_empty_steps_move_nothing(norm, rng):
    """Nor do they count as seen."""
    layer = layer_of(norm, TOKENS, rng, 8, seen=1)
    before, mask = values(layer), np.zeros((4, STEPS), bool)
    x = np.where(mask[..., None], rng.normal(2, 3, TOKENS.shape), np.nan)
    forward(layer, x, True, mask)
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])
    mask[1:, 1:3] = True
    x = np.where(mask[..., None], rng.normal(2, 3, TOKENS.shape), np.nan)
    forward(layer, x, True, mask)
    assert values(layer)["moving_steps"] == 3
    changed = (values(layer)["moving_mean"] != before["moving_mean"]).any(1)
    assert (changed == [0, 1, 1, 0, 0, 0, 0, 0]).all()


@pytest.mark.parametrize("shape", [(4, 1), (1, STEPS), (4,)], ids=str)
def test_masks_broadcast(shape, rng):
    layer = layer_of(BY_NAME["bn"], TOKENS, rng)
    mask = np.arange(np.prod(shape)).reshape(shape) % 3 > 0
    x = rng.normal(2, 3, TOKENS.shape)
    full = np.broadcast_to(mask.reshape(mask.shape + (1,) * (2 - mask.ndim)), (4, STEPS))
    y, moving = expected(layer, TOKENS, x, full, True)
    assert_close(forward(layer, x, True, mask)[full], y[full])
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


# apply and move.


@pytest.mark.parametrize("max_steps", [None, 2, STEPS, 9])
@over(ON_TOKENS)
def test_apply_has_no_effect_and_move_has_it(norm, max_steps, rng):
    kwargs = {} if max_steps is None else {"max_steps": max_steps}
    layer = norm(dtype=DTYPE, **TOKENS.arguments, **kwargs)
    layer.build(TOKENS.shape)
    x, mask = tensor(rng.normal(2, 3, TOKENS.shape)), tensor(TOKENS.mask(rng))
    before = values(layer)
    y, batch = layer.normalize(x, True, mask)
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])
    layer.update_moving(batch)
    moved = values(layer)
    for name, value in before.items():
        getattr(layer, name).assign(value)
    assert_close(to_numpy(layer(x, training=True, mask=mask)), to_numpy(y), 0)
    for name, value in values(layer).items():
        assert_close(value, moved[name], 1e-12)
    inference, batch = layer.normalize(x, False, mask)
    assert batch is None
    assert_close(to_numpy(layer(x, mask=mask)), to_numpy(inference), 0)


@pytest.mark.parametrize("training, layout", [(True, LAYOUTS[0]), (False, LAYOUTS[1])], ids=str)
@over(ON_TOKENS)
def test_piece_by_piece_equals_all_at_once(norm, training, layout, rng):
    """`first_step` is an int or a tensor; what moves, moves by the statistics of its own step."""
    whole, pieces = (layer_of(norm, layout, np.random.default_rng(1), 4, 3) for _ in range(2))
    x, mask = rng.normal(2, 3, layout.shape), layout.mask(rng)
    y = forward(whole, x, training, mask)
    outputs, moves = [], []
    for first, numbers in ((0, [0, 1]), (ops.convert_to_tensor(2, "int32"), [2]), (3, [3])):
        here, valid = (tensor(layout.steps(a, *numbers)) for a in (x, mask))
        part, batch = pieces.normalize(here, training, valid, first)
        outputs.append(to_numpy(part))
        moves.append((batch, first))
    for batch, first in moves:
        assert (batch is None) == (not training)
        if training:
            pieces.update_moving(batch, first)
    assert_close(np.concatenate(outputs, layout.time), layout.steps(y, 0, 1, 2, 3))
    for name, value in values(whole).items():
        assert_close(values(pieces)[name], value)


# Models.


@pytest.mark.parametrize("name", ["bn", "sn"])
def test_a_model_with_any_number_of_steps(name, rng, tmp_path):
    inputs = keras.Input((None, 8))
    layer = BY_NAME[name](max_steps=4, batch_axis=(0, 1), name="norm")
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    for steps in (2, 6, 3):
        x = rng.normal(2, 3, (4, steps, 8)).astype("float32")
        model.fit(x, x, verbose=0)
    assert values(layer)["moving_steps"] == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").max_steps == 4
    for steps in (1, 4, 7):
        x = rng.normal(2, 3, (3, steps, 8)).astype("float32")
        y = model.predict(x, verbose=0)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), y)
        assert_close(y, expected(layer, TOKENS, x)[0], 1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_recalibrate(exact, rng):
    """Each step has the statistics of all sequences that have it."""
    inputs = keras.Input((None, 8))
    names = "norm1", "norm2"
    x = inputs
    for name in names:
        x = keras_norms.BatchNormalization(max_steps=4, batch_axis=(0, 1), name=name)(x)
    model = keras.Model(inputs, x)
    batches = [rng.normal(2, 3, (n, t, 8)).astype("float32") for n, t in ((4, 3), (9, 2), (1, 6))]
    before = [to_numpy(v) for v in model.trainable_variables]
    assert keras_norms.recalibrate(model, batches, exact=exact) == 3
    rows = [np.concatenate([b[:, t] for b in batches if b.shape[1] > t]) for t in range(3)]
    rows.append(batches[2][0, 3:])
    found = values(model.get_layer("norm1"))
    for number, row in enumerate(rows):
        assert_close(found["moving_mean"][number], row.astype("float64").mean(0), 1e-5)
        if number < 3:  # the last row holds the mean of the variances of its steps
            assert_close(found["moving_variance"][number], row.astype("float64").var(0), 1e-4)
    assert found["moving_steps"] == 4
    if exact:
        found = values(model.get_layer("norm2"))
        assert_close(found["moving_mean"], np.zeros((4, 8)), 1e-5)
        variance = values(model.get_layer("norm1"))["moving_variance"][:3]
        assert_close(found["moving_variance"][:3], variance / (variance + 1e-3), 1e-4)
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen(rng):
    layer = layer_of(BY_NAME["bn"], TOKENS, rng)
    x, before = rng.normal(2, 3, TOKENS.shape), values(layer)
    layer.trainable = False
    assert_close(forward(layer, x, True), forward(layer, x), 0)
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", "float16"])
def test_many_steps_in_half_precision(policy, rng):
    """bfloat16 cannot count beyond 256."""
    layer = keras_norms.BatchNormalization(max_steps=600, batch_axis=(0, 1), dtype=policy)
    x = rng.normal(2, 3, (4, 520, 2)).astype("float32")
    layer(x, training=True)
    assert values(layer)["moving_steps"] == 519 + 1
    mean = values(layer)["moving_mean"]
    assert_close(mean[:520], 0.01 * x.mean(0), 1e-2)
    assert not mean[520:].any()


# Arguments.


@over(NORMS)
def test_configurations(norm):
    layer = norm(max_steps=7, batch_axis=(0, 1))
    config = json.loads(json.dumps(layer.get_config()))
    assert config["max_steps"] == 7
    other = type(layer).from_config(config)
    assert other.get_config() == layer.get_config()
    assert norm().get_config()["max_steps"] is None
    layer.build((2, 3, 4, 8))
    assert layer.get_config() == other.get_config()
    without = norm(batch_axis=(0, 1))
    without.build((2, 3, 4, 8))
    assert without.moving_steps is None and without.moving_mean.shape == (8,)


def test_without_batch_statistics_there_are_no_steps():
    layer = keras_norms.SwitchableNormalization(
        statistics=("layer", "group"), groups=2, max_steps=3, batch_axis=(0, 1)
    )
    layer.build(TOKENS.shape)
    assert layer.moving_steps is None and not layer.non_trainable_weights


@pytest.mark.parametrize("most", [0, -1])
def test_max_steps_is_positive(most):
    with pytest.raises(ValueError, match=f"`max_steps` must be a positive int.*max_steps={most}"):
        keras_norms.BatchNormalization(max_steps=most, batch_axis=(0, 1))


@pytest.mark.parametrize("most", [1.5, "3", True])
def test_max_steps_is_an_int(most):
    with pytest.raises(ValueError, match=f"`max_steps` must be a positive int.*max_steps={most!r}"):
        keras_norms.BatchNormalization(max_steps=most, batch_axis=(0, 1))


@pytest.mark.parametrize("batch_axis", [0, (0,), (1,)], ids=str)
def test_max_steps_needs_an_axis_of_time(batch_axis):
    layer = keras_norms.BatchNormalization(max_steps=3, batch_axis=batch_axis)
    with pytest.raises(ValueError, match=r"`max_steps` needs the axis of time.*batch_axis=\(0, 1"):
        layer.build((2, 3, 8))
