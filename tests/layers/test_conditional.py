"""Instance normalization under a second input: formulas, gradients, masks, files, training.

What does not need TensorFlow runs on every backend, as test_laws does.
"""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from keras_norms import (
    AdaptiveInstanceNormalization,
    ConditionalInstanceNormalization,
    InstanceNormalization,
)
from keras_norms.base import Normalization
from tests.layers.test_keras_suites import Runner
from tests.support.norms import DTYPE, LAYOUTS, Layout, assert_close, needs_tensorflow
from tests.support.norms import values as values_of
from tests.support.running import compiled, constants, grad, tensor, to_numpy

SPATIAL = tuple(layout for layout in LAYOUTS if layout.spatial)
IMAGES = Layout((3, 4, 5, 8), -1)
SEQUENCES = Layout((4, 5, 8), -1)
LENGTHS = np.arange(5) < np.array([[5], [2], [4], [3]])
FEATURES = 6
ADAPTIVE, CONDITIONAL = AdaptiveInstanceNormalization, ConditionalInstanceNormalization
both = pytest.mark.parametrize("cls", [ADAPTIVE, CONDITIONAL], ids=["adaptive", "conditional"])
over_layouts = pytest.mark.parametrize(
    "layout",
    [
        pytest.param(layout, id=str(layout), marks=[] if i % 2 else pytest.mark.slow)
        for i, layout in enumerate(SPATIAL)
    ],
)


def condition_shape(cls, layout):
    """The shape of the second input; a style is larger than `x` by one along each position."""
    if cls is CONDITIONAL:
        return (*(layout.shape[axis] for axis in layout.batch), FEATURES)
    return tuple(size + (axis in layout.spatial) for axis, size in enumerate(layout.shape))


def make(cls, layout, rng, dtype=DTYPE, **options):
    layer = cls(dtype=dtype, **layout.arguments, **options)
    layer.build([layout.shape, condition_shape(cls, layout)])
    for weight in layer.weights:
        weight.assign(rng.normal(weight.name == "gamma", 0.5, weight.shape))
    return layer


def draw(cls, layout, rng):
    return rng.normal(2, 3, layout.shape), rng.normal(1, 2, condition_shape(cls, layout))


def moments(x, axes, mask=None):
    """Mean and variance over positions, in two passes."""
    valid = np.ones(x.shape, bool) if mask is None else mask
    count = valid.sum(axes, keepdims=True)
    mean = np.where(valid, x, 0).sum(axes, keepdims=True) / count
    return mean, (np.where(valid, x - mean, 0) ** 2).sum(axes, keepdims=True) / count


def expected(layer, layout, x, condition, mask=None, condition_mask=None, weights=None):
    """The papers' formulas in NumPy."""
    mean, variance = moments(x, layout.spatial, mask)
    normalized = (x - mean) / np.sqrt(variance + layer.epsilon)
    if type(layer) is ADAPTIVE:
        mean, variance = moments(condition, layout.spatial, condition_mask)
        return np.sqrt(variance + layer.epsilon) * normalized + mean
    weights = values_of(layer) if weights is None else weights

    def projected(name):
        values = weights[name] + condition @ weights[f"{name}_kernel"]
        full = np.moveaxis(values, -1, sum(axis < layout.channel for axis in layout.batch))
        return np.expand_dims(full, layout.spatial)

    gamma = projected("gamma") if "gamma" in weights else 1
    return gamma * normalized + (projected("beta") if "beta" in weights else 0)


def spread(mask, shape):
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def run(layer, *inputs, **options):
    return to_numpy(layer([tensor(part) for part in inputs], **options))


@both
@over_layouts
def test_formula(cls, layout, rng):
    """The same in training and inference."""
    layer, inputs = make(cls, layout, rng), draw(cls, layout, rng)
    for training in (False, True):
        assert_close(run(layer, *inputs, training=training), expected(layer, layout, *inputs))


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}], ids=str)
def test_without_scale_or_shift(options, rng):
    layer = make(CONDITIONAL, IMAGES, rng, **options)
    kept = "beta" if "scale" in options else "gamma"
    assert set(values_of(layer)) == {kept, f"{kept}_kernel"}
    inputs = draw(CONDITIONAL, IMAGES, rng)
    assert_close(run(layer, *inputs), expected(layer, IMAGES, *inputs))


@both
def test_directional_derivatives(cls, rng):
    """Of both inputs and every weight, against differences of the formula."""
    layer, inputs = make(cls, SEQUENCES, rng), draw(cls, SEQUENCES, rng)
    dy = rng.normal(0, 1, SEQUENCES.shape)
    names = [weight.name for weight in layer.trainable_weights]

    def loss(x, condition, *weights):
        y, _ = layer.stateless_call(weights, [], [x, condition], training=True)
        return ops.sum(y * tensor(dy))

    points = [*inputs, *values_of(layer).values()]
    slopes = compiled(grad(loss))(*map(tensor, inputs), *constants(layer.trainable_weights))
    assert len(slopes) == len(points) == 2 + len(names)
    for i, slope in enumerate(slopes):
        direction = rng.normal(0, 1, points[i].shape)

        def at(step, i=i, direction=direction):
            moved = [p + step * direction if i == j else p for j, p in enumerate(points)]
            weights = dict(zip(names, moved[2:], strict=True))
            y = expected(layer, SEQUENCES, *moved[:2], weights=weights)
            return float(np.sum(y * dy))

        difference = (at(1e-5) - at(-1e-5)) / 2e-5
        assert_close(np.sum(to_numpy(slope) * direction), difference, 1e-6)


def test_a_style_is_taken_over(rng):
    """Statistics of the output are those of the style, and of its own style the identity."""
    x, style = draw(ADAPTIVE, IMAGES, rng)
    layer = make(ADAPTIVE, IMAGES, rng, epsilon=0.0)
    for mine, theirs in zip(
        moments(run(layer, x, style), (1, 2)), moments(style, (1, 2)), strict=True
    ):
        assert_close(mine, theirs)
    assert_close(run(make(ADAPTIVE, IMAGES, rng), x, x), x)


@both
@needs_tensorflow
def test_a_graph_that_does_not_know_the_channels(cls, rng):
    import tensorflow as tf

    x, condition = map(tensor, draw(cls, IMAGES, rng))
    layer = make(cls, IMAGES, rng)
    signature = [tf.TensorSpec([None] * x.ndim, x.dtype)]
    function = tf.function(lambda x: layer([x, condition]), input_signature=signature)
    assert_close(to_numpy(function(x)), run(layer, x, condition))


def test_a_style_for_all_samples(rng):
    x, style = draw(ADAPTIVE, IMAGES, rng)
    layer = make(ADAPTIVE, IMAGES, rng)
    repeated = np.repeat(style[:1], len(x), 0)
    assert_close(run(layer, x, style[:1]), run(layer, x, repeated))


def test_starts_as_instance_normalization(rng):
    layer, plain = CONDITIONAL(dtype=DTYPE), InstanceNormalization(epsilon=1e-5, dtype=DTYPE)
    x, condition = draw(CONDITIONAL, IMAGES, rng)
    assert_close(run(layer, x, condition), to_numpy(plain(tensor(x))), 1e-12)


def test_one_hot_conditions_choose_a_style_and_mixtures_mix(rng):
    layer = make(CONDITIONAL, IMAGES, rng)
    x, _ = draw(CONDITIONAL, IMAGES, rng)
    chosen = np.array([4, 0, 4])
    one_hot, weights = np.eye(FEATURES)[chosen], values_of(layer)
    plain = InstanceNormalization(epsilon=1e-5, dtype=DTYPE)
    plain.build(IMAGES.shape)
    for i, style in enumerate(chosen):
        for name in ("gamma", "beta"):
            getattr(plain, name).assign(weights[name] + weights[f"{name}_kernel"][style])
        alone = to_numpy(plain(tensor(x[i : i + 1])))
        assert_close(run(layer, x, one_hot)[i : i + 1], alone)
        # A class as an integer vector.
        assert_close(run(layer, x, one_hot.astype("int32"))[i : i + 1], alone)
    first, second = (run(layer, x, np.eye(FEATURES)[[s] * 3]) for s in (1, 2))
    mixture = np.array([[0, 0.3, 0.7, 0, 0, 0]])
    assert_close(run(layer, x, mixture), 0.3 * first + 0.7 * second)


@both
@pytest.mark.parametrize("form", ["tensor", "list"])
def test_masks(cls, form, rng):
    """Padding counts in no statistic, of the style neither, whatever it holds."""
    layer, (x, condition) = make(cls, SEQUENCES, rng), draw(cls, SEQUENCES, rng)
    mask, style_mask, mask_of_style = LENGTHS, None, None
    x[~mask] = np.nan
    if cls is ADAPTIVE and form == "list":
        style_mask = np.arange(6) < np.array([[6], [3], [1], [4]])
        condition[~style_mask] = np.nan
        mask_of_style = spread(style_mask, condition.shape)
        style_mask = tensor(style_mask)
    given = tensor(mask) if form == "tensor" else [tensor(mask), style_mask]
    y = expected(layer, SEQUENCES, x, condition, spread(mask, x.shape), mask_of_style)
    for training in (False, True):
        result = run(layer, x, condition, mask=given, training=training)
        assert_close(result[mask], y[mask])

    def loss(x, condition):
        return ops.sum(ops.where(mask[..., None], layer([x, condition], mask=given), 0))

    slopes = compiled(grad(loss))(tensor(x), tensor(condition))
    assert all(np.isfinite(to_numpy(slope)).all() for slope in slopes)


@both
def test_masks_of_keras_layers_arrive(cls, rng):
    """Those of both inputs, and that of `x` goes on to the layer behind."""
    x, condition = draw(cls, SEQUENCES, rng)
    x[~LENGTHS] = 0
    inputs = [keras.Input(part.shape[1:]) for part in (x, condition)]
    masked = [keras.layers.Masking()(inputs[0]), inputs[1]]
    mask_of_style = None
    if cls is ADAPTIVE:
        valid = np.arange(6) < np.array([[6], [3], [1], [4]])
        condition[~valid] = 0
        mask_of_style = spread(valid, condition.shape)
        masked[1] = keras.layers.Masking()(inputs[1])
    layer = cls()
    hidden = layer(masked)
    assert hidden._keras_mask.shape == (None, 5)
    model = keras.Model(inputs, [hidden, keras.layers.GlobalAveragePooling1D()(hidden)])
    for weight in layer.weights:
        weight.assign(rng.normal(0, 1, weight.shape))
    y = expected(layer, SEQUENCES, x, condition, spread(LENGTHS, x.shape), mask_of_style)
    hidden, pooled = model.predict([x, condition], verbose=0)
    assert_close(hidden[LENGTHS], y[LENGTHS], 1e-4)
    assert_close(pooled, [one[valid].mean(0) for one, valid in zip(y, LENGTHS, strict=True)], 1e-4)


@both
def test_large_means(cls, rng):
    """Statistics of both inputs in float32 are right where the mean is 10,000 deviations."""
    layer, (x, condition) = make(cls, IMAGES, rng, "float32"), draw(cls, IMAGES, rng)
    x = (x + 3e4).astype("float32")
    if cls is ADAPTIVE:
        condition = (condition + 2e4).astype("float32")
    y = expected(layer, IMAGES, x.astype("float64"), condition)
    assert np.abs(run(layer, x, condition) - y).max() < 1e-2


@both
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_half_precision(cls, policy, rng):
    """Sums and deviations of more than float16 holds; the output has the compute dtype."""
    layer, (x, condition) = make(cls, IMAGES, rng, policy), draw(cls, IMAGES, rng)
    x = (1e3 * x).astype("float16")
    condition = condition.astype("float16")
    result = layer([ops.convert_to_tensor(x), ops.convert_to_tensor(condition)])
    assert keras.backend.standardize_dtype(result.dtype) == layer.compute_dtype
    weights = {v.name: to_numpy(ops.cast(v.value, "float32")) for v in layer.weights}
    y = expected(layer, IMAGES, x.astype("float64"), condition.astype("float64"), weights=weights)
    error = np.abs(to_numpy(ops.cast(result, "float32")) - y).max()
    assert error < (0.01 if layer.compute_dtype == "float16" else 0.08)


OPTIONS = {
    ADAPTIVE: {"axis": 2, "epsilon": 0.25, "batch_axis": (0, 1)},
    CONDITIONAL: {
        "axis": 2,
        "epsilon": 0.25,
        "batch_axis": (0, 1),
        "gamma_initializer": "zeros",
        "beta_regularizer": keras.regularizers.L2(0.1),
        "kernel_initializer": keras.initializers.RandomNormal(0.0, 0.1, seed=1),
        "kernel_regularizer": keras.regularizers.L2(0.2),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
    },
}


@both
@pytest.mark.parametrize("full", [False, True], ids=["defaults", "all options"])
def test_configuration(cls, full):
    layer = cls(**OPTIONS[cls] if full else {})
    serialized = json.dumps(layer.get_config())
    assert set(OPTIONS[cls]) <= set(layer.get_config())
    layout = Layout((2, 3, 8, 4), 2, (0, 1)) if full else IMAGES
    layer.build([layout.shape, condition_shape(cls, layout)])
    assert json.dumps(layer.get_config()) == serialized
    revived = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    )
    assert type(revived) is cls and json.dumps(revived.get_config()) == serialized


def test_options_reach_the_kernels():
    layer = CONDITIONAL(**OPTIONS[CONDITIONAL])
    layer.build([(2, 3, 8, 4), (2, 3, 5)])
    assert layer.gamma_kernel.shape == layer.beta_kernel.shape == (5, 8)
    assert len(layer.losses) == 3  # beta and two kernels
    assert layer.beta_kernel.constraint.max_value == 2
    assert (values_of(layer)["gamma"] == 0).all() and values_of(layer)["beta_kernel"].any()


def test_gamma_and_beta_are_not_decayed_and_kernels_are():
    layer = CONDITIONAL(name="norm")
    inputs = keras.Input((4, 8)), keras.Input((FEATURES,))
    model = keras.Model(inputs, layer(inputs))
    names = {variable.name for variable in keras_norms.no_decay_variables(model)}
    assert names == {"gamma", "beta"}


@both
@pytest.mark.parametrize("name", ["gamma_initializer", "beta_constraint", "center", "scale"])
def test_a_style_leaves_nothing_to_learn(cls, name):
    if cls is ADAPTIVE:
        with pytest.raises(TypeError, match=f"AdaptiveInstance.* has no argument `{name}`"):
            cls(**{name: None})
    else:
        assert name in cls().get_config()
    assert bool(make(cls, IMAGES, np.random.default_rng(0)).weights) == (cls is CONDITIONAL)


ERRORS = {
    "one input": ([(2, 4, 8)], "expects 2 input"),
    "three inputs": ([(2, 4, 8)] * 3, "expects 2 input"),
    "no positions": ([(2, 8), (2, 6)], "spatial axis"),
    "one position": ([(2, 1, 8), (2, 6)], "single element"),
    "a condition with positions": ([(2, 4, 8), (2, 4, 6)], r"2 axes.*\(2, 4, 6\)"),
}
STYLE_ERRORS = {
    "another rank": ([(2, 4, 8), (2, 8)], "ndim=3"),
    "other channels": ([(2, 4, 8), (2, 4, 7)], "axis 2"),
}


@pytest.mark.parametrize(
    "cls, shapes, message",
    [(CONDITIONAL, *case) for case in ERRORS.values()]
    + [(ADAPTIVE, *case) for case in STYLE_ERRORS.values()],
)
def test_refused_inputs(cls, shapes, message):
    inputs = [np.ones(shape, "float32") for shape in shapes]
    if len(inputs) == 1:
        (inputs,) = inputs
    with pytest.raises(ValueError, match=message):
        layer = cls()
        layer(inputs)
        layer(inputs)  # channels of a style are compared once they are known


@both
def test_an_unknown_size_is_refused_where_it_matters(cls):
    x = keras.Input((None, 8))
    second = keras.Input((None, 8)) if cls is ADAPTIVE else keras.Input((FEATURES,))
    assert cls()([x, second]).shape == (None, None, 8)
    with pytest.raises(ValueError, match="features|defined dimension"):
        cls()([keras.Input((4, None)), second] if cls is ADAPTIVE else [x, keras.Input((None,))])


def model_of(cls, rng, layout=IMAGES):
    inputs = keras.Input((None, None, 8)), keras.Input(condition_shape(cls, layout)[1:])
    layer = cls(name="norm")
    model = keras.Model(inputs, layer(inputs))
    for weight in layer.weights:
        weight.assign(rng.normal(0, 1, weight.shape))
    return model


def draw32(cls, rng):
    return [part.astype("float32") for part in draw(cls, IMAGES, rng)]


@both
def test_files_and_clones_are_exact(cls, rng, tmp_path):
    model, inputs = model_of(cls, rng), draw32(cls, rng)
    result = to_numpy(model(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is cls
    np.testing.assert_array_equal(to_numpy(loaded(inputs)), result)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(to_numpy(clone(inputs)), result)


@both
@needs_tensorflow
def test_exported_models_are_exact(cls, rng, tmp_path):
    import tensorflow as tf

    model, inputs = model_of(cls, rng), draw32(cls, rng)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    assert_close(served.serve(tuple(inputs)), model.predict(inputs, verbose=0), 1e-6)


def test_fit_learns_the_styles(rng):
    """Four styles of instance normalization are found again from their outputs."""
    x, chosen = rng.normal(2, 3, (64, 4, 4, 2)), rng.integers(4, size=64)
    scale, shift = rng.uniform(0.5, 2, (4, 2)), rng.normal(0, 1, (4, 2))
    mean, variance = moments(x, (1, 2))
    y = (x - mean) / np.sqrt(variance) * scale[chosen][:, None, None]
    y = y + shift[chosen][:, None, None]
    inputs = keras.Input((4, 4, 2)), keras.Input((4,))
    layer = CONDITIONAL()
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    history = model.fit([x, np.eye(4)[chosen]], y, epochs=40, verbose=0)
    assert history.history["loss"][-1] < 1e-4 < 1e-2 < history.history["loss"][0]
    weights = values_of(layer)
    assert_close(weights["gamma"] + weights["gamma_kernel"], scale, 0.05)
    assert_close(weights["beta"] + weights["beta_kernel"], shift, 0.05)


@both
@needs_tensorflow
def test_fused_programs_compute_the_same(cls, rng, monkeypatch):
    """Outputs and all gradients, where `fused` computes the training step and where not."""
    import tensorflow as tf

    from keras_norms import fused

    layer, inputs = make(cls, IMAGES, rng), [tf.constant(part) for part in draw(cls, IMAGES, rng)]
    dy, calls = rng.normal(0, 1, IMAGES.shape), []
    monkeypatch.setattr(fused, "LEAST_ELEMENTS", 0)
    program = fused.normalize
    monkeypatch.setattr(fused, "normalize", lambda *a: calls.append(a) or program(*a))

    def step(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(list(inputs), training=True)
            loss = tf.reduce_sum(y * dy)
        weights = [variable.value for variable in layer.trainable_variables]
        return [y, *tape.gradient(loss, [*inputs, *weights])]

    ours = step(*inputs)  # eagerly, which is never fused
    assert not calls
    theirs = tf.function(step)(*inputs)
    assert calls
    for one, two in zip(ours, theirs, strict=True):
        assert_close(one, two)


@both
@needs_tensorflow
def test_ragged_tensors(cls, rng):
    import tensorflow as tf

    layer, (x, condition) = make(cls, SEQUENCES, rng), draw(cls, SEQUENCES, rng)
    y = run(layer, x, condition, mask=tensor(LENGTHS))
    ragged = tf.RaggedTensor.from_row_lengths(x[LENGTHS], LENGTHS.sum(1))
    result = layer([ragged, tf.constant(condition)])
    assert_close(result.flat_values, y[LENGTHS])
    if cls is ADAPTIVE:
        valid = np.arange(6) < np.array([[6], [3], [1], [4]])
        y = run(layer, x, condition, mask=[tensor(LENGTHS), tensor(valid)])
        style = tf.RaggedTensor.from_row_lengths(condition[valid], valid.sum(1))
        assert_close(layer([ragged, style]).flat_values, y[LENGTHS])


@both
def test_run_layer_test(cls):
    """Build, symbolic and eager calls, training, serialization and mixed precision."""
    Runner().run_layer_test(
        cls,
        init_kwargs={},
        input_shape=[IMAGES.shape, condition_shape(cls, IMAGES)],
        expected_output_shape=IMAGES.shape,
        expected_num_trainable_weights=4 if cls is CONDITIONAL else 0,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=True,
        run_training_check=False,  # Keras's own cannot feed two inputs; test_fit does
    )


def test_they_are_norms():
    """What works on all norms works on them."""
    assert all(issubclass(cls, Normalization) for cls in (ADAPTIVE, CONDITIONAL))
    inputs = keras.Input((4, 8)), keras.Input((FEATURES,))
    model = keras.Model(inputs, CONDITIONAL()(inputs))
    keras_norms.freeze(model)
    assert not model.trainable_variables
