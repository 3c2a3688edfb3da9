"""SwitchLogger, by what its event files hold."""

import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2

from keras_norms import (
    BatchInstanceNormalization,
    SwitchableNormalization,
    analysis,
    importance,
)
from keras_norms.callbacks import SwitchLogger
from tests.support.child import run_code

SAMPLES = 20


def read_events(folder):
    """`{tag: {step: value}}` of all tensors in the event files, by TensorBoard's own loader."""
    tags = {}
    for file in sorted(Path(folder).glob("*tfevents*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                content = tf.make_ndarray(value.tensor) if value.HasField("tensor") else None
                if value.metadata.plugin_data.plugin_name == "hparams":
                    content = value.metadata.plugin_data.content
                tags.setdefault(value.tag, {})[event.step] = content
    return tags


def make_model(run_eagerly=True, **kwargs):  # a model this small runs faster than it traces
    """Switches and gates of several kinds, some in a nested model."""
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            SwitchableNormalization(name="stage1_block1_norm1"),
            layers.Conv2D(4, 3, name="conv"),
            SwitchableNormalization(statistics=("layer", "batch"), name="stage1_block1_norm2"),
        ],
        name="encoder",
    )
    images = keras.Input((8, 8, 3))
    x = SwitchableNormalization(name="stem_norm")(layers.Conv2D(4, 3)(images))
    x = BatchInstanceNormalization(name="stage2_norm")(inner(x))
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="net")
    return compiled(model, run_eagerly, **kwargs)


def make_small_model():
    norm = SwitchableNormalization(name="stem_norm")
    images = keras.Input((8, 8, 3))
    return compiled(keras.Sequential([images, norm, layers.Flatten(), layers.Dense(3)]), rate=0.05)


def compiled(model, run_eagerly=None, rate=0.5, **kwargs):
    model.compile(
        keras.optimizers.SGD(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=run_eagerly,
        jit_compile=keras.backend.backend() == "jax",
        **kwargs,
    )
    return model


def fit(model, *loggers, batch_size=4, **kwargs):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SAMPLES, 8, 8, 3)), rng.integers(3, size=SAMPLES)
    return model.fit(
        x.astype("float32"), y, batch_size=batch_size, verbose=0, callbacks=list(loggers), **kwargs
    )


class Watch(keras.callbacks.Callback):
    """Records `importance(model)` by step."""

    def on_train_begin(self, logs=None):
        self.seen = {0: importance(self.model)}

    def on_epoch_end(self, epoch, logs=None):
        self.seen[int(self.model.optimizer.iterations)] = importance(self.model)


PATHS = ["stem_norm", "encoder/stage1_block1_norm1", "encoder/stage1_block1_norm2", "stage2_norm"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training run with everything logged: `(folder, events, what the layers said, history)`."""
    folder, watch = tmp_path_factory.mktemp("run") / "switches", Watch()
    hparams = {"rate": 0.5, "decayed": True, "norm": "sn", "data_dir": None}
    history = fit(make_model(), watch, SwitchLogger(folder, hparams=hparams), epochs=3).history
    return folder, read_events(folder), watch.seen, history


def test_every_weight_is_logged_at_every_epoch(run):
    _, events, seen, _ = run
    assert list(seen) == [0, 5, 10, 15] and list(seen[0]) == PATHS
    assert seen[0] != seen[5] != seen[15]
    expected = {}
    for step, table in seen.items():
        for path, kinds in table.items():
            for kind, shares in kinds.items():
                for statistic, share in shares.items():
                    name = f"switch/{path}/{kind}/{statistic}"
                    if kind == "gate":
                        name = f"gate/{path}/{statistic}"
                    expected.setdefault(name, {})[step] = share
    del expected["gate/stage2_norm/instance"]
    assert len(expected) == 6 + 6 + 4 + 1
    logged = {tag for tag in events if tag.startswith(("switch/", "gate/"))}
    assert logged == set(expected)
    for tag, curve in expected.items():
        assert events[tag].keys() == curve.keys()
        np.testing.assert_allclose(list(events[tag].values()), list(curve.values()), rtol=1e-6)


def test_means_and_gate_histograms_are_logged(run):
    """Each statistic is a run of its own, which TensorBoard gives a colour of its own."""
    folder, events, seen, _ = run
    stem = seen[15]["stem_norm"]
    batch = (stem["mean"]["batch"] + stem["variance"]["batch"]) / 2
    of = {label: read_events(folder / label) for label in ("IN", "LN", "BN")}
    assert list(of["BN"]) == [f"importance/{part}" for part in ("stem", "stage1", "stage2", "net")]
    assert set(of["BN"]) - set(of["LN"]) == {"importance/stage2"}  # whose gate knows no layers
    np.testing.assert_allclose(of["BN"]["importance/stem"][15], batch, rtol=1e-6)
    total = sum(own["importance/net"][15] for own in of.values())
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    histogram = events["gates/stage2_norm"]
    assert list(histogram) == [0, 5, 10, 15]
    assert histogram[15][:, 2].sum() == 4  # channels


def test_read_gives_back_what_the_layers_said(run):
    folder, _, seen, _ = run
    preferences = analysis.read(folder.parent)
    assert preferences.log_dir == folder
    assert list(preferences.history) == list(seen)
    assert list(preferences.last) == PATHS
    for step, table in seen.items():
        for path, kinds in table.items():
            for kind, shares in kinds.items():
                assert preferences.history[step][path][kind] == pytest.approx(shares, abs=1e-6)


def test_figures_are_images(run):
    _, events, _, _ = run
    for name in ("stacked_bars", "heat_map"):
        images = events[f"preferences/{name}"]
        assert list(images) == [0, 5, 10, 15]
        width, height, png = images[15]
        pixels = tf.io.decode_png(png).numpy()
        assert pixels.shape[:2] == (int(height), int(width))
        assert images[15][2] != images[0][2]
        assert pixels.std() > 20  # something is drawn


def test_hparams_stand_beside_the_metrics_of_fit(run):
    _, events, _, history = run

    def content(tag):
        (data,) = events[tag].values()
        return plugin_data_pb2.HParamsPluginData.FromString(data)

    start = content("_hparams_/session_start_info").session_start_info
    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}
    assert values == {"rate": 0.5, "decayed": True, "norm": "sn"}
    columns = content("_hparams_/experiment").experiment
    assert {info.name for info in columns.hparam_infos} == set(values)
    assert [info.name.tag for info in columns.metric_infos] == ["metrics/loss"]
    np.testing.assert_allclose(list(events["metrics/loss"].values()), history["loss"], rtol=1e-6)


def test_a_resumed_run_continues_its_curves(tmp_path):
    model = make_model()
    fit(model, SwitchLogger(tmp_path / "log", every=2, figures=False), epochs=2)
    saved = tmp_path / "model.keras"
    model.save(saved)
    fit(model, SwitchLogger(tmp_path / "log", figures=False), initial_epoch=2, epochs=4)  # killed

    class Restore(keras.callbacks.Callback):
        """Restores a checkpoint, as BackupAndRestore does, and may come after the logger."""

        def on_train_begin(self, logs=None):
            source = keras.saving.load_model(saved)
            self.model.optimizer.build(self.model.trainable_variables)
            for variable, value in zip(self.model.variables, source.variables, strict=True):
                variable.assign(value)
            self.model.optimizer.iterations.assign(source.optimizer.iterations)

    resumed, watch = make_model(), Watch()
    logger = SwitchLogger(tmp_path / "log", every=2, figures=False)
    fit(resumed, watch, logger, Restore(), initial_epoch=2, epochs=3)
    history = analysis.read(tmp_path / "log").history
    assert list(history) == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15]
    before = importance(keras.saving.load_model(saved))
    assert history[10]["stem_norm"]["mean"] == pytest.approx(before["stem_norm"]["mean"], abs=1e-6)
    after = importance(resumed)
    assert history[15]["stem_norm"]["mean"] == pytest.approx(after["stem_norm"]["mean"], abs=1e-6)
    assert before["stem_norm"] != after["stem_norm"]


def test_batches_count_where_several_run_at_once(tmp_path):
    model = make_model(run_eagerly=False, steps_per_execution=2)
    logger = SwitchLogger(tmp_path, every=5, figures=False)
    assert not logger.async_safe and SwitchLogger(tmp_path, figures=False).async_safe
    fit(model, logger, batch_size=1, epochs=1)
    assert list(read_events(tmp_path)["gate/stage2_norm/batch"]) == [0, 6, 10, 16, 20]


@pytest.mark.parametrize("every, steps", [("epoch", [5, 10]), (2, [1, 2, 4, 5, 6, 8, 10])])
def test_a_train_step_of_ones_own_that_builds_the_model(tmp_path, every, steps):
    class Adversary(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = SwitchableNormalization(name="stem_norm")
            self.own_optimizer = keras.optimizers.SGD(0.1)

        def call(self, x):
            return self.norm(x)

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = ops.mean(self(data[0], training=True) ** 2 * data[0])
            gradients = tape.gradient(loss, self.trainable_variables)
            self.own_optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    model = Adversary()
    model.compile(run_eagerly=True)
    fit(model, SwitchLogger(tmp_path, every=every, figures=False), epochs=2)
    curve = read_events(tmp_path)["switch/stem_norm/mean/batch"]
    assert list(curve) == steps and len({float(v) for v in curve.values()}) == len(steps)


def test_accumulated_gradients_share_a_step(tmp_path):
    model = make_small_model()
    model.optimizer.gradient_accumulation_steps = 2
    fit(model, SwitchLogger(tmp_path, every=1, figures=False), epochs=2)
    curve = read_events(tmp_path)["switch/stem_norm/mean/batch"]
    assert list(curve) == list(range(6))


def test_a_logger_serves_several_fits(tmp_path):
    model, logger = make_model(), SwitchLogger(tmp_path, figures=False)
    fit(model, logger, epochs=1)
    fit(model, logger, epochs=1)
    assert list(analysis.read(tmp_path).history) == [0, 5, 10]


def test_figures_are_few_and_the_last_epoch_has_one(tmp_path, monkeypatch):
    import keras_norms.figures as figures

    monkeypatch.setattr(figures, "pixels", lambda figure: np.zeros((1, 1, 4), "uint8"))
    monkeypatch.setattr(figures, "stacked_bars", lambda p: None)
    monkeypatch.setattr(figures, "heat_map", lambda p: None)
    for draw in ("stacked_bars", "heat_map"):
        getattr(figures, draw).__name__ = draw
    model, logger = make_model(), SwitchLogger(tmp_path)
    logger.set_model(model)
    logger.set_params({"epochs": 100})
    logger.on_train_begin()
    for epoch in range(73):  # stops early
        logger.on_epoch_begin(epoch)
        model.optimizer.iterations.assign_add(1)
        logger.on_epoch_end(epoch)
    logger.on_train_end()
    steps = list(read_events(tmp_path)["preferences/heat_map"])
    assert len(steps) <= 10 and steps[0] == 0 and steps[-1] == 73


def test_a_model_without_switches_gets_one_warning_and_no_events(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, SwitchLogger(tmp_path / "log", every=1), epochs=2)
    (warning,) = [w for w in caught if "nothing to log" in str(w.message)]
    assert warning.category is UserWarning
    assert not (tmp_path / "log").exists()


def test_diverged_weights_are_logged_as_they_are(tmp_path):
    model = make_model()
    for path, layer in analysis.switched_layers(model).items():
        weight = layer.gate if path == "stage2_norm" else layer.mean_logits
        weight.assign(ops.full(weight.shape, float("nan")))
    fit(model, SwitchLogger(tmp_path, figures=False), epochs=1)
    last = analysis.read(tmp_path).last
    assert np.isnan(last["stem_norm"]["mean"]["batch"])
    assert np.isnan(last["stage2_norm"]["gate"]["batch"])


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "step", None])
def test_bad_every(tmp_path, every):
    with pytest.raises(ValueError, match='"epoch" or a positive int'):
        SwitchLogger(tmp_path, every=every)


def test_on_every_backend(tmp_path):
    """On JAX, test_backends.py runs it."""
    model = make_small_model()
    fit(model, SwitchLogger(tmp_path, every=2, figures=False), epochs=2)
    share = importance(model)["stem_norm"]["mean"]["batch"]
    curve = read_events(tmp_path)["switch/stem_norm/mean/batch"]
    assert list(curve) == [0, 2, 4, 5, 6, 8, 10]
    assert len({float(value) for value in curve.values()}) == 7  # no stale state
    assert curve[10] == pytest.approx(share, rel=1e-6)


@pytest.mark.process
def test_without_tensorflow_the_error_names_the_extra(tmp_path):
    code = f"""
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("tensorflow", "tensorboard", "matplotlib"):
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Blocked())
        import keras, keras_norms
        from keras_norms import analysis, callbacks, comparison, figures
        layer = keras_norms.SwitchableNormalization(name="stem_norm")
        model = keras.Sequential([keras.Input((4, 4, 2)), layer])
        table = keras_norms.importance(model)
        print(analysis.Preferences({{0: table}}).text())
        (folder := {str(tmp_path)!r}) and open(folder + "/events.out.tfevents.1", "w").close()
        for call in (
            lambda: callbacks.SwitchLogger("log"),
            lambda: analysis.read(folder),
            lambda: figures.stacked_bars(analysis.Preferences({{0: table}})),
        ):
            try:
                call()
            except ImportError as error:
                print(error)
    """
    lines = run_code(code, KERAS_BACKEND="jax").splitlines()
    errors = [line for line in lines if 'pip install "keras-norms[tensorflow]"' in line]
    assert len(errors) == 3
    for error, name in zip(errors, ("tensorflow", "tensorboard", "matplotlib"), strict=True):
        assert f"needs {name}" in error
    assert any(line.startswith("stem_norm   0.33 0.33 0.33") for line in lines)
