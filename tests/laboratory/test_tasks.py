"""What the studies measure beside accuracy: landscape, cost, noise of batch statistics."""

import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_norms
import zoo
from keras_norms import timing
from tests.support.child import run_code
from zoo.laboratory import measuring
from zoo.laboratory.tasks import cost, landscape, noise

X = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
Y = np.arange(16) % 10
TINY = {"model": "mlp", "train_examples": 200, "test_examples": 50, "batch_size": 32}


def number(variable):
    return np.copy(keras.ops.convert_to_numpy(variable))


def variables(model):
    return [number(variable) for variable in (*model.weights, *model.non_trainable_variables)]


def quadratic(matrix):
    """L = w'Aw / 2 of a list of one vector."""

    def loss_and_gradients(weights):
        gradient = tf.linalg.matvec(matrix, weights[0])
        return tf.reduce_sum(weights[0] * gradient) / 2, [gradient]

    return loss_and_gradients


def test_the_measures_of_a_quadratic_are_known(rng):
    vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = (vectors * [1.0, 4.0, 9.0]) @ vectors.T
    lengths = [0.01, 0.1, 0.2]
    for w, smoothness in ((vectors[:, 2], 9.0), (vectors[:, 0], 1.0), (rng.normal(size=3), None)):
        found = landscape.probe(quadratic(matrix), [tf.constant(w)], lengths)
        g = matrix @ w
        changes = [np.linalg.norm(t * matrix @ g) for t in lengths]
        losses = [(w - t * g) @ matrix @ (w - t * g) / 2 for t in lengths]
        expected = {
            "loss": w @ matrix @ w / 2,
            "gradient_norm": np.linalg.norm(g),
            "loss_low": min(losses),
            "loss_high": max(losses),
            "loss_range": max(losses) - min(losses),
            "change_low": changes[0],
            "change_high": changes[-1],
            "relative_change": changes[-1] / np.linalg.norm(g),
            "smoothness": smoothness or np.linalg.norm(matrix @ g) / np.linalg.norm(g),
        }
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_loss_without_gradient_and_one_without_value():
    flat = landscape.probe(lambda w: (1.0, [tf.zeros(2)]), [tf.ones(2)], [0.1, 1.0])
    assert flat["loss_range"] == 0 and np.isnan(flat["smoothness"])
    summary = landscape._summary({0: flat, 5: flat | {"smoothness": 2.0}, 9: flat})
    assert summary["median_smoothness"] == np.inf and summary["median_loss_range"] == 0
    assert summary["curves"]["smoothness"] == pytest.approx([np.nan, 2.0, np.nan], nan_ok=True)
    assert summary["curves"]["step"] == [0, 5, 9]


@pytest.mark.parametrize("spec", ["wn_mobn", "sn"])
def test_probing_changes_nothing_and_sees_the_function_of_the_step(spec):
    model = zoo.convnet("conv6", 10, landscape.shifted(spec), (8, 8, 1), width=1 / 16)
    x, y, weights = tf.constant(X), tf.constant(Y), model.trainable_variables
    evaluate = landscape.loss_and_gradients(model)
    before = variables(model)
    assert any("seed" in variable.path for variable in model.non_trainable_variables)

    def here(weights):
        return evaluate(weights, x, y)

    measures = landscape.probe(here, [v.value for v in weights], [0.1, 1.0])
    loss, gradients = here(weights)
    assert measures["loss"] == float(loss) and measures["loss_range"] > 0
    for old, new in zip(before, variables(model), strict=True):
        np.testing.assert_array_equal(old, new)

    old = [number(variable) for variable in weights]
    step = measuring.training_step(model, keras.optimizers.SGD(1.0))
    assert float(step(x, y)) == pytest.approx(float(loss), rel=1e-5)  # the same shift as well
    for a, b, gradient in zip(old, weights, gradients, strict=True):
        np.testing.assert_allclose(a - number(b), gradient, rtol=1e-3, atol=2e-5)
    assert any(np.any(a != b) for a, b in zip(before, variables(model), strict=True))
    # Not what the weights were when it was compiled.
    assert float(here(weights)[0]) != float(loss)


def test_shift_is_of_units_in_training_and_other_at_every_step(rng):
    x = rng.normal(size=(64, 4, 4, 8)).astype("float32")
    layer = landscape.CovariateShift()
    np.testing.assert_array_equal(layer(x, training=False), x)
    first, second = (number(layer(x, training=True)) for _ in range(2))
    assert np.all(np.abs(first - second).mean((0, 1, 2)) > 1e-3)
    # Each unit has a factor and a shift of its own in each step, the same at all its positions.
    for y in (first, second):
        factor = (y[:, 0, 0] - y[:, 1, 1]) / (x[:, 0, 0] - x[:, 1, 1])
        shift = y - factor[:, None, None] * x
        np.testing.assert_allclose(shift, shift[:, :1, :1] + 0 * shift, atol=1e-3)
        mean, scale = shift.mean((0, 1, 2)), factor.mean(0)
        assert np.all(np.abs(mean) < 0.55) and np.all((scale > 0.95) & (scale < 1.3))
        assert np.ptp(mean) > 0.1 and np.ptp(scale) > 0.05
    exact = landscape.CovariateShift(spread=0.0)
    y = number(exact(x, training=True)).reshape(-1, 8)
    for unit, values in enumerate(y.T):
        line = np.polyfit(x[..., unit].ravel(), values, 1)
        np.testing.assert_allclose(np.polyval(line, x[..., unit].ravel()), values, atol=1e-4)
    assert landscape.CovariateShift.from_config(exact.get_config()).spread == 0.0


def test_a_shifted_norm_is_the_norm_at_inference():
    plain, noisy = (
        zoo.resnet(20, 10, norm, (8, 8, 1), width=0.25)
        for norm in (keras_norms.get("bn"), landscape.shifted("bn"))
    )
    assert plain.count_params() == noisy.count_params()
    noisy.set_weights(plain.get_weights())
    np.testing.assert_allclose(plain(X, training=False), noisy(X, training=False), atol=1e-6)
    names = [layer.name for layer in keras_norms.model_layers.named_layers(noisy).values()]
    assert "stage1_block1_norm2" in names and "stage1_block1_norm2_shifted" in names
    assert sum(name.endswith("_shifted") for name in names) == 19
    with pytest.raises(ValueError, match="LSTM: use shift=False"):
        landscape.Landscape("lstm", shift=True).rows(0, None, None)


def test_a_landscape_is_one_row_and_the_same_for_the_same_seed():
    task = landscape.Landscape(**TINY, steps=5, every=2, learning_rate=0.05)
    (row,), (again,) = (task.rows(3, None, None) for _ in range(2))
    assert row == again == json.loads(json.dumps(row, allow_nan=False))
    assert row["diverged_at"] is None
    curves = row["curves"]
    assert curves["step"] == [0, 2, 4] and all(len(curve) == 3 for curve in curves.values())
    assert row["median_smoothness"] == np.median(curves["smoothness"]) > 0
    assert np.isfinite(row["final_loss"]) and 0 < row["test_accuracy"] < 1


def test_a_landscape_that_diverges_says_when():
    task = landscape.Landscape(**TINY, norm="none", steps=9, every=1, learning_rate=1e30)
    (row,) = task.rows(0, None, None)
    assert 0 < row["diverged_at"] < 8 and not np.isfinite(row["final_loss"])
    assert row["median_smoothness"] == np.inf


def test_a_profile_has_a_row_for_every_norm():
    task = cost.Profile("mlp", ("none", "bn", "ln"), (10,), 2, rounds=3, memory=False)
    rows = task.rows(0, None, None)
    json.dumps(rows, allow_nan=False)
    dense, logits = 10 * 50, 50 * 2 + 2
    assert [(r["norm"], r["trainable_parameters"], r["parameters"]) for r in rows] == [
        ("none", dense + 50 + logits, dense + 50 + logits),
        ("bn", dense + 2 * 50 + logits, dense + 4 * 50 + logits),
        ("ln", dense + 3 * 50 + logits, dense + 3 * 50 + logits),
    ]
    for row in rows:
        assert row["memory_mib"] is None
        for kind in ("training", "inference"):
            ratio, low, high = (row[f"{kind}_ratio{part}"] for part in ("", "_low", "_high"))
            assert 0 < low <= ratio <= high and row[f"{kind}_ms"] > 0
    assert [rows[0][f"{kind}_ratio"] for kind in ("training", "inference")] == [1, 1]


def test_memory_holds_the_activations():
    # 1024 x 10,000 hidden units: 39 MiB for each thing that is kept of them.
    task = cost.Profile("mlp", ("none",), (10,), 2, width=200.0, batch_size=1024, rounds=1)
    (row,) = task.rows(0, None, None)
    if row["memory_mib"] is None:
        pytest.skip("needs Linux's /proc/self/clear_refs")
    assert 39 < row["memory_mib"] < 8 * 39


def test_a_child_that_fails_says_why():
    with pytest.raises(RuntimeError, match="(?s)-c raise KeyError.*failed.*no such norm"):
        measuring.run_child("-c", "raise KeyError('no such norm')")


def test_times_are_compared_with_the_base():
    x = tf.ones(())
    steps = {"one": lambda x: time.sleep(0.01) or x, "three": lambda x: time.sleep(0.03) or x}
    costs = timing.compare_times(steps, (x,), "one", rounds=3, repeats=2)
    assert costs["one"][2:] == (1, 1, 1) and 10 <= costs["one"].ms < costs["three"].ms
    assert costs["three"].first >= 0.03 and costs["three"].ratio == pytest.approx(3, rel=0.3)
    assert costs["three"].low <= costs["three"].ratio <= costs["three"].high


@pytest.mark.process
def test_replicas_agree_with_one_device_if_synchronized():
    """Unequal batches: 12 samples here and 4 there."""
    code = """
        import json
        from zoo.laboratory.tasks.agreement import Agreement
        from zoo.training import distribution
        distribution.strategy(2)
        options = {"replicas": 2, "uneven": True, "width": 0.05, "global_batch": 16}
        specs = ("bn", "bn(synchronized=True)", "gn")
        print(json.dumps([Agreement(spec, **options).rows(0, None, None)[0] for spec in specs]))
    """
    apart, synchronized, group = json.loads(run_code(code))
    for name in ("weights_difference", "statistics_difference"):
        assert synchronized[name] < 1e-5 < 1e-3 < apart[name]
    assert group["weights_difference"] < 1e-5 and group["statistics_difference"] is None
    for row in (apart, synchronized, group):
        assert row["between_replicas"] == 0
        assert row["gamma_beta_between_replicas"] == 0


MAPS, VECTORS = "(None, 10, 10, 5)", "(20, 5, 10)"


def test_parameters_of_the_articles():
    rows = cost.LayerParameters().rows(0, None, None)
    found = {(r["layer"], r["input"]): r["trainable_parameters"] for r in rows}
    assert found == {
        ("bn", MAPS): 10,
        ("ln", MAPS): 10,
        ("keras LN (1, 2, 3)", MAPS): 1000,
        ("keras LN (last axis)", MAPS): 10,
        ("ln", VECTORS): 20,
        ("keras LN (last axis)", VECTORS): 20,
    }
    assert [r["parameters"] for r in rows][0] == 20


def normed(shape, layer=None):
    model = keras.Sequential([keras.Input(shape), layer or keras_norms.BatchNormalization()])
    return model, model.layers[-1]


def theory(n, kurtosis=3.0):
    spread = np.sqrt((kurtosis - 1) / n)
    return {"mean_noise": n**-0.5, "std_noise": spread / 2, "variance_noise": spread}


def assert_near(row, expected, tolerance=0.06):
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=tolerance), (name, row)


@pytest.mark.parametrize("norm", ["bn", "sn"])
def test_noise_of_gaussian_values_is_that_of_theory(norm, rng):
    model, layer = normed((4, 4, 24), keras_norms.get(norm).normalize())
    before = variables(model)
    data = rng.normal(3, 2, size=(2, 300, 4, 4, 24)).astype("float32")
    first, second = noise.batch_noise(model, [(data[0], None), data[1]], (2, 16))
    assert (first["size"], second["size"], first["layer"]) == (2, 16, layer.name)
    assert_near(first, theory(16 * 2))
    assert_near(second, theory(16 * 16))
    assert 2.5 < second["mean_kurtosis"] < 3.5 and 2.5 < second["variance_kurtosis"] < 3.8
    for old, new in zip(before, variables(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "normalize" not in vars(layer)


def test_noise_counts_what_is_independent(rng):
    data = rng.normal(size=(800, 1, 1, 24)) * np.ones((1, 4, 4, 1))  # one value in a sample
    (row,) = noise.batch_noise(normed((4, 4, 24))[0], [data.astype("float32")], (32,))
    assert_near(row, theory(32))
    data = rng.laplace(size=(5000, 24)).astype("float32")  # heavy tails turn the comparison round
    (row,) = noise.batch_noise(normed((24,))[0], [data], (256,), draws=300)
    assert_near(row, theory(256, kurtosis=6.0), 0.1)
    assert row["std_noise"] > row["mean_noise"]


def test_noise_of_single_values_and_dead_units(rng):
    data = rng.normal(size=(500, 24)).astype("float32")
    data[:, 0] = 7.0
    (row,) = noise.batch_noise(normed((24,))[0], [data], (1,))
    assert row["variance_noise"] == row["std_noise"] == 1 and row["variance_kurtosis"] is None
    assert row["mean_noise"] == pytest.approx(1, rel=0.06)
    (row,) = noise.batch_noise(normed((24,))[0], [np.ones((9, 24), "float32")], (4,))
    assert row["mean_noise"] is row["variance_noise"] is row["mean_kurtosis"] is None


def test_noise_of_draws_that_do_not_fit_at_once(rng):
    data = rng.normal(size=(300, 4096)).astype("float32")
    (row,) = noise.batch_noise(normed((4096,))[0], [data], (16,))  # 2 pieces
    assert_near(row, {**theory(16), "variance_noise": np.sqrt(2 / 16 - 1 / 16**2)}, 0.03)


def test_noise_leaves_padding_out_and_loops_aside(rng):
    data = rng.normal(size=(400, 6, 24)).astype("float32")
    data[:, 3:] = 0.0
    layer = keras_norms.BatchNormalization(batch_axis=(0, 1))
    inputs = keras.Input((6, 24))
    model = keras.Model(inputs, layer(keras.layers.Masking()(inputs)))
    (row,) = noise.batch_noise(model, [data], (20,))
    assert_near(row, theory(60))
    # Of a recurrent layer, what comes from the input: each time step has statistics of its own.
    model = zoo.lstm(2, norm="bn", input_shape=(3, 24))
    steps = data[:, :3] + np.float32([[0], [10], [20]])
    (row,) = noise.batch_noise(model, [steps], (16,))
    assert row["layer"] == "layer1/layer1_input_norm"
    assert_near(row, {**theory(16), "variance_noise": np.sqrt(2 / 16 - 1 / 16**2)})
    with pytest.raises(ValueError, match="no norm with batch mean and variance"):
        noise.batch_noise(zoo.mlp(2, norm="ln"), [data], (1,))
    with pytest.raises(ValueError, match="no batch"):
        noise.batch_noise(normed((24,))[0], [], (1,))
