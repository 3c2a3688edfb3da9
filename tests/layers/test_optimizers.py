"""configure_optimizer, control_variables, no_decay_variables."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norms
from tests.support.child import run_code

X = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
Y = np.zeros((16, 2), "float32")


def model():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="conv1")(x)
    x = keras_norms.SwitchableNormalization(name="sn")(x)
    x = layers.Conv2D(4, 3, name="conv2")(x)
    x = keras_norms.BatchInstanceNormalization(name="bin", gate_initializer="zeros")(x)
    x = layers.RMSNormalization(name="rms")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def test_variables_by_kind():
    net = model()
    controls = {v.path for v in keras_norms.control_variables(net)}
    assert controls == {"sn/mean_logits", "sn/variance_logits", "bin/gate"}
    decayed = {v.path for v in net.trainable_variables} - {
        v.path for v in keras_norms.no_decay_variables(net)
    }
    kernels = {v.path for v in net.trainable_variables if v.name == "kernel"}
    assert decayed == kernels | {"sn/mean_logits", "sn/variance_logits"}


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_multiplier_scales_the_update_itself(name):
    # Scaling the gradient instead does nothing under Adam.
    moves = {}
    for multiplier in (1.0, 10.0):
        net = model()
        gate, logits = net.get_layer("bin").gate, net.get_layer("sn").mean_logits
        kernel = net.get_layer("conv1").kernel
        plain = getattr(keras.optimizers, name)(1e-2)
        optimizer = keras_norms.configure_optimizer(plain, net, multiplier)
        assert isinstance(optimizer, getattr(keras.optimizers, name))
        if optimizer.weight_decay:
            optimizer.weight_decay = None
        gate.assign(np.full(4, 0.5))  # away from the ends, where the constraint would hold it
        variables = [gate, logits, kernel]
        before = [ops.convert_to_numpy(v) for v in variables]
        optimizer.apply([ops.ones(v.shape) for v in variables], variables)
        moves[multiplier] = [
            np.abs(ops.convert_to_numpy(v) - b).mean()
            for v, b in zip(variables, before, strict=True)
        ]
    ratio = np.array(moves[10.0]) / np.array(moves[1.0])
    np.testing.assert_allclose(ratio, [10, 10, 1], rtol=1e-3)


def test_l2_goes_through_the_momentum():
    # 50 steps without gradient: l2 through the momentum leaves 0.644 of a weight.
    rate, momentum, l2, steps = 0.1, 0.9, 0.01, 50
    weight, velocity = 1.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity - rate * l2 * weight
        weight += velocity
    net = model()
    net.get_layer("conv1").kernel.assign(np.ones((3, 3, 3, 4)))
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.SGD(rate, momentum=momentum), net, l2=l2
    )
    variables = net.trainable_variables
    before = {v.path: ops.convert_to_numpy(v) for v in variables}
    for _ in range(steps):
        optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    np.testing.assert_allclose(net.get_layer("conv1").kernel, weight, rtol=1e-5)
    assert abs(weight - 0.644) < 0.001
    spared = {v.path for v in keras_norms.no_decay_variables(net)}
    spared |= {v.path for v in keras_norms.control_variables(net)}
    for variable in variables:
        unchanged = np.array_equal(before[variable.path], variable)
        assert unchanged == (variable.path in spared), variable.path


@pytest.mark.parametrize("decay_controls", [False, True])
def test_decoupled_decay_spares_the_same_variables(decay_controls):
    net = model()
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.SGD(0.1, weight_decay=0.1), net, decay_controls=decay_controls
    )
    variables = net.trainable_variables
    before = {v.path: ops.convert_to_numpy(v) for v in variables}
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    moved = {v.path for v in variables if not np.array_equal(before[v.path], v)}
    assert ("sn/mean_logits" in moved) == decay_controls
    assert "conv1/kernel" in moved
    assert not moved & {"sn/gamma", "sn/beta", "bin/gate", "rms/scale", "conv1/bias"}


@pytest.mark.process
def test_holds_after_save_and_load_in_another_process(tmp_path):
    net = model()
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 100), momentum=0.9),
        net,
        control_multiplier=10.0,
        l2=0.01,
    )
    net.compile(optimizer, "mse")
    net.fit(X, Y, batch_size=8, verbose=0)
    net.save(tmp_path / "model.keras")
    script = f"""
import json, keras, keras_norms, numpy as np
net = keras.models.load_model({str(tmp_path / "model.keras")!r})
rng = np.random.default_rng(0)
x = rng.normal(size=(16, 6, 6, 3)).astype("float32")
net.fit(x, np.zeros((16, 2), "float32"), batch_size=8, verbose=0, shuffle=False)
print(json.dumps([type(net.optimizer).__mro__[2].__name__] +
                 [np.asarray(v).tolist() for v in net.trainable_variables]))
"""
    name, *after = json.loads(run_code(script).splitlines()[-1])
    net.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
    assert name == "SGD"
    for value, variable in zip(after, net.trainable_variables, strict=True):
        np.testing.assert_allclose(value, variable, rtol=1e-4, atol=1e-6, err_msg=variable.path)


def test_exclusions_of_the_user_stay():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.LayerNormalization()])
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.5)
    optimizer = keras_norms.configure_optimizer(optimizer, model)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    optimizer.apply([ops.zeros_like(v) for v in before], model.trainable_variables)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_a_second_build_changes_nothing():
    norm = keras_norms.SwitchableNormalization()
    model = keras.Sequential([keras.Input((4, 4, 3)), norm])
    variables = model.trainable_variables
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.SGD(0.1), model, control_multiplier=10.0
    )
    optimizer.build(variables)
    optimizer.build(variables[2:])
    before = [ops.convert_to_numpy(v) for v in variables]
    optimizer.apply([ops.ones_like(v) for v in before], variables)
    for variable, value in zip(variables, before, strict=True):
        rate = 1.0 if variable.name.endswith("logits") else 0.1
        np.testing.assert_allclose(ops.convert_to_numpy(variable), value - rate, rtol=1e-6)


def test_a_skipped_step_keeps_the_scales_of_float8():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16)])
    model.layers[0].quantize("float8")
    variables = model.trainable_variables
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.SGD(0.1), model, skip_nonfinite=True
    )
    before = [ops.convert_to_numpy(v) for v in variables]
    slopes = [ops.zeros_like(v) for v in before]
    slopes[0] = slopes[0] + float("inf")
    optimizer.apply(slopes, variables)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


@pytest.mark.parametrize("name", ["Adam", "Nadam"])
def test_a_multiplier_of_one_thing_leaves_the_others_alone(name):
    """Several steps, in which optimizers count."""
    found = {}
    for multiplier in (1.0, 3.0):
        keras.utils.set_random_seed(0)
        norm = keras_norms.SwitchableNormalization()
        model = keras.Sequential([keras.Input((4, 4, 3)), norm])
        optimizer = getattr(keras.optimizers, name)(0.1)
        optimizer = keras_norms.configure_optimizer(optimizer, model, control_multiplier=multiplier)
        for step in range(3):
            slopes = [ops.ones(v.shape) * (step + 1) for v in model.trainable_variables]
            optimizer.apply(slopes, model.trainable_variables)
        found[multiplier] = ops.convert_to_numpy(norm.gamma)
    np.testing.assert_allclose(found[3.0], found[1.0], rtol=1e-6)


def test_errors():
    net = model()
    sgd = keras.optimizers.SGD(0.1)
    configured = keras_norms.configure_optimizer(sgd, net)
    with pytest.raises(ValueError, match="plain optimizer.*ConfiguredSGD"):
        keras_norms.configure_optimizer(configured, net)
    sgd.build(net.trainable_variables)
    with pytest.raises(ValueError, match="has been used"):
        keras_norms.configure_optimizer(sgd, net)
    excluding = keras.optimizers.AdamW()
    excluding.exclude_from_weight_decay(var_names=["kernel"])
    with pytest.raises(ValueError, match="exclude_from_weight_decay"):
        keras_norms.configure_optimizer(excluding, net)
    with pytest.raises(ValueError, match="Build the model"):
        keras_norms.configure_optimizer(keras.optimizers.SGD(), keras.Sequential([layers.Dense(2)]))

    @keras.saving.register_keras_serializable("test")
    class Odd(layers.Layer):
        def build(self, shape):
            self.mean_logits = self.add_weight(name="mean_logits", shape=(3,))

        def call(self, x):
            return x

    inputs = keras.Input((6, 6, 3))
    nested = keras.Model(inputs, Odd(name="sn")(inputs))
    with pytest.raises(ValueError, match="Two variables have the path 'sn/mean_logits'"):
        keras_norms.configure_optimizer(
            keras.optimizers.SGD(), keras.Model(inputs, model()(nested(inputs)))
        )
