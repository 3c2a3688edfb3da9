"""zoo.training and scripts/train.py: a run does what its options say, and writes it down."""

import dataclasses
import inspect
import re
import time

import docstring_parser
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_norms
import zoo
from keras_norms import analysis
from tests.support.train_script import complaints, record, run_script, script
from zoo import data, training
from zoo.data import loading
from zoo.resnet import CIFAR, IMAGENET
from zoo.training import catalog, optimization, progress, run_folder

EPOCHS, TRAIN, BATCH, REPLICAS = 2, 300, 16, 2
STEPS = TRAIN // (BATCH * REPLICAS)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Options of a run that takes seconds."""
    monkeypatch.setitem(CIFAR, 8, ("basic", (1, 1, 1)))
    return training.TrainOptions(
        model="resnet8",
        width=0.25,
        epochs=1,
        train_examples=64,
        test_examples=20,
        log_dir=str(tmp_path / "run"),
    )


@pytest.fixture
def quick(small):
    """The same with a model that compiles in a second."""
    return dataclasses.replace(small, model="mlp", norm="bn", width=1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the script on two replicas: `(folder, what it printed)`."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run_script(
        *("--model", "mlp", "--norm", "sn", "--dataset", "digits"),
        *("--epochs", str(EPOCHS), "--batch-size", str(BATCH), "--replicas", str(REPLICAS)),
        *("--train-examples", str(TRAIN), "--test-examples", "70", "--log-dir", str(folder)),
    )
    assert done.returncode == 0, done.stderr
    assert not complaints(done.stderr), "nothing but progress and results is shown"
    return folder, done.stdout


def load(path):
    # A process of its own wrote it: nothing but the packages knows what is in it.
    return keras.saving.load_model(path)


# What a run writes.


@pytest.mark.process
def test_output_tells_batch_rate_and_results(run):
    folder, output = run
    assert "global batch: 32 = 16 x 2 replica(s), 9 steps per epoch" in output
    assert "learning rate: 0.025 = 0.1 * 32 / 128" in output
    assert f"Epoch {EPOCHS}/{EPOCHS}" in output
    assert f"test accuracy: {record(folder)['results']['accuracy']:.2%}" in output
    assert f"python scripts/preferences.py {folder}" in output
    assert f"tensorboard --logdir {folder}" in output


@pytest.mark.process
def test_record_is_complete(run):
    folder, _ = run
    content = record(folder)
    options, versions, results = (content[part] for part in ("options", "versions", "results"))
    assert set(options) == {field.name for field in dataclasses.fields(training.TrainOptions)}
    assert options["log_dir"] == str(folder) and options["batch_size"] == BATCH
    assert versions["keras"] == keras.__version__
    assert versions["keras_norms"] == keras_norms.__version__
    assert {"python", "tensorflow", "tensorflow-datasets"} < set(versions)
    assert results["global_batch"] == BATCH * REPLICAS and results["steps_per_epoch"] == STEPS
    assert results["scaled_learning_rate"] == pytest.approx(0.025)
    assert 0 < results["seconds_per_step"] < results["seconds"]
    assert results["saved_model_difference"] < 1e-5
    history = results["history"]
    assert set(history) == {
        prefix + name for prefix in ("", "val_") for name in ("loss", "accuracy", "cross_entropy")
    }
    assert all(len(values) == EPOCHS for values in history.values())
    assert results["accuracy"] == history["val_accuracy"][-1]


@pytest.mark.process
def test_saved_model_exported_and_checkpoint_agree(run):
    folder, _ = run
    results = record(folder)["results"]
    images = data.load("digits", test_examples=70)
    x = np.stack([images.prepare(x, None) for x, _ in images.test])
    y = np.array([y for _, y in images.test.as_numpy_iterator()])
    model = load(folder / "model.keras")
    logits = model(x, training=False).numpy()
    exported = tf.saved_model.load(str(folder / "saved_model"))
    np.testing.assert_allclose(exported.serve(x), logits, atol=1e-5)
    # 70 is no multiple of 32: the metrics leave out what fills the last batch.
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert results["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == y), abs=1e-6)
    expected = -log_p[np.arange(len(y)), y].mean()
    for value in (results["cross_entropy"], results["history"]["val_loss"][-1]):
        assert value == pytest.approx(expected, rel=1e-4)
    assert results["parameters"] == model.count_params()
    assert results["importance"] == analysis.importance(model)
    assert int(model.optimizer.iterations) == EPOCHS * STEPS


@pytest.mark.process
def test_events_can_be_read(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run

    def curve(part, name):
        events = EventAccumulator(str(folder / "tensorboard" / part), {"tensors": 0}).Reload()
        return [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(name)]

    results = record(folder)["results"]
    for part, prefix in (("train", ""), ("validation", "val_")):
        logged = curve(part, "epoch_accuracy")
        np.testing.assert_allclose(logged, results["history"][prefix + "accuracy"], rtol=1e-6)
    rates = curve("train", "epoch_learning_rate")
    # A cosine, after half of its steps and at its end.
    np.testing.assert_allclose(rates, [0.025 / 2, 0], atol=1e-9)
    text = curve("", "run").pop().decode()
    assert "| global_batch | 32 |" in text and "| norm | sn |" in text
    preferences = analysis.read(folder)
    assert sorted(preferences.history) == [0, STEPS, EPOCHS * STEPS]
    assert preferences.options["norm"] == "sn"
    for path, kinds in results["importance"].items():
        for kind, shares in kinds.items():
            logged = preferences.history[EPOCHS * STEPS][path][kind]
            assert logged == pytest.approx(shares, abs=1e-6)


# Errors, and what is refused.


def test_help_explains_every_option():
    code, out, _ = script("--help")
    assert code == 0
    for field in dataclasses.fields(training.TrainOptions):
        assert f"--{field.name.replace('_', '-')} " in out.replace(",", " ")


def default(function, argument):
    return inspect.signature(function).parameters[argument].default


def test_help_names_every_choice_and_every_default():
    parsed = docstring_parser.parse_from_object(training.TrainOptions)
    help = {param.arg_name: " ".join(param.description.split()) for param in parsed.params}
    for option, names in {"model": catalog.entries(), "norm": keras_norms.NAMES}.items():
        assert set(names) <= set(re.findall(r"\w+", help[option]))
    words, characters = (
        default(load, "sequence_length") for load in (loading._load_texts, loading._load_characters)
    )
    size = default(loading._load_texts, "vocabulary_size")
    depths, dropouts = (
        [default(build, argument) for build in (zoo.lstm, zoo.transformer)]
        for argument in ("depth", "dropout")
    )
    sgd, adam = catalog.SGD, catalog.ADAM
    for option, end in {
        "sequence_length": f"None: {words} words, {characters} characters.",
        "vocabulary_size": f"None: {size:,}.",
        "depth": "None: {} for lstm, {} for transformer.".format(*depths),
        "dropout": "None: {:g} for lstm, {:g} for transformer.".format(*dropouts),
        "placement": f"None: {default(zoo.transformer, 'placement')}.",
        "learning_rate": f"None: {adam.learning_rate} for adam, {sgd.learning_rate} for sgd.",
        "momentum": f"None: {sgd.momentum}.",
        "l2": f"None: {sgd.l2:.4f} for sgd, {adam.l2:g} for adam.",
    }.items():
        assert help[option].endswith(end), help[option]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "resnet21"], "Unknown model 'resnet21'. Known: resnet20, "),
        (["--model", "vgg"], "Unknown model 'vgg'"),
        (["--dataset", "no_such_set"], "Unknown dataset 'no_such_set'"),
        (["--norm", "sm"], "error: A norm is one of 'none', 'bn'"),
        (["--norm", "gn(groups=5)"], "groups"),
        (["--batch-size", 0], "batch_size must be positive"),
        (["--batch-size", 2000], "do not fill one global batch"),
        (["--epochs", 2, "--warmup-epochs", 2], "warmup_epochs leaves no time"),
        (["--replicas", 99], "99 replicas"),
        (["--norm", "bn", "--control-multiplier", 2], "control_multiplier has no effect"),
        (["--norm", "bin", "--decay-controls", "True"], "decay_controls has no effect"),
        (["--norm", "bn", "--data-init", "False"], "data_init has no effect on norm='bn'"),
        (["--dataset", "points"], "'points' holds vectors, which take the model mlp"),
        (["--log-every", -1], "log_every must be positive"),
    ],
)
def test_options_that_cannot_be_honoured(tmp_path, arguments, message):
    code, out, err = script("--log-dir", tmp_path / "run", *arguments)
    assert code == 2 and not out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_unless_asked(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.keras").write_text("precious")
    (folder / "notes.txt").write_text("mine")
    code, _, err = script("--log-dir", folder)
    (line,) = err.splitlines()
    assert code == 2 and "--log-dir" in line and "--overwrite" in line and str(folder) in line
    assert (folder / "model.keras").read_text() == "precious"
    options = training.TrainOptions(log_dir=str(folder), overwrite=True)
    assert run_folder.choose(options, replicas=1) == folder
    run_folder.create(folder, {"results": None})
    assert not (folder / "model.keras").exists() and record(folder) == {"results": None}
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_loss_that_is_no_number_ends_the_run(small, tmp_path):
    options = dataclasses.replace(small, norm="none", learning_rate=1e15, epochs=3)
    message = r"The loss is (nan|inf) after step \d \(epoch 1\): .* arises in layer '\w+'"
    with pytest.raises(FloatingPointError, match=message):
        training.train(options)
    assert record(tmp_path / "run")["results"] is None


# What options do.


def test_default_log_dir_and_the_rate_of_imagenet_nets(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(IMAGENET, 10, ("basic", (1, 1)))
    options = dataclasses.replace(small, model="resnet10", norm="gn(groups=2)", log_dir=None)
    done = training.train(dataclasses.replace(options, schedule="step", seed=3))
    folder = done["options"]["log_dir"]
    assert folder == "runs/resnet10-gn_groups=2_-digits-b32x1-s3"
    assert record(tmp_path / folder) == done
    assert done["results"]["scaled_learning_rate"] == pytest.approx(0.1 * 32 / 256)
    assert "learning rate: 0.0125 = 0.1 * 32 / 256, step over 1 epochs" in capsys.readouterr().out


def test_bin_moves_its_gates_fast_and_free(small, tmp_path):
    results = training.train(dataclasses.replace(small, norm="bin", export=False))["results"]
    assert results["saved_model_difference"] is None
    assert not (tmp_path / "run" / "saved_model").exists()
    model = load(tmp_path / "run" / "model.keras")
    assert model.optimizer.control_multiplier == 10 and model.optimizer.l2 == 1e-4
    gates = np.concatenate([gate.numpy() for gate in keras_norms.control_variables(model)])
    assert gates.min() >= 0 and gates.max() <= 1 and (gates < 1).any()
    assert set(results["importance"]["stem_norm"]) == {"gate"}
    preferences = analysis.read(tmp_path / "run")
    assert preferences.history.keys() == {0, 2}


def test_options_for_the_controls(quick, tmp_path):
    options = dataclasses.replace(quick, norm="sn", control_multiplier=3.0, decay_controls=False)
    training.train(dataclasses.replace(options, precision="mixed_float16", l2=0.01, log_every=1))
    optimizer = load(tmp_path / "run" / "model.keras").optimizer.inner_optimizer
    assert optimizer.control_multiplier == 3 and optimizer.l2 == 0.01
    assert set(optimizer.control_paths) <= set(optimizer.no_decay_paths)
    assert analysis.read(tmp_path / "run").history.keys() == {0, 1, 2}
    assert keras.config.dtype_policy().name == "float32", "the policy of the process is back"


def test_weight_norm_starts_from_the_data(small, tmp_path):
    training.train(dataclasses.replace(small, norm="wn_mobn", learning_rate=1e-12, l2=0.0))
    model = load(tmp_path / "run" / "model.keras")
    stem = model.get_layer("stem_conv_wn")
    batch, _ = next(iter(data.load("digits", train_examples=64).train_batches(32, seed=0)))
    outputs = stem(batch, training=True).numpy()
    np.testing.assert_allclose(outputs.std((0, 1, 2)), 1, atol=1e-3)
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0, atol=1e-3)


@pytest.mark.parametrize("data_init", [True, False])
def test_weight_norm_starts_from_the_data_if_asked(quick, tmp_path, data_init):
    options = dataclasses.replace(quick, norm="wn", learning_rate=1e-12, l2=0.0)
    training.train(dataclasses.replace(options, data_init=data_init))
    trained = load(tmp_path / "run" / "model.keras")
    entry, _, options = catalog.select_model(options)
    keras.utils.set_random_seed(options.seed)
    initial = catalog.build(entry, options, data.load("digits"))
    for before, after in zip(initial.trainable_weights, trained.trainable_weights, strict=True):
        assert before.path == after.path
        # The directions are the seed's in any case, the gains are the data's or the directions'.
        if not data_init or before.name == "kernel":
            np.testing.assert_allclose(before.numpy(), after.numpy(), atol=1e-6)
        if data_init and before.name == "gain":
            assert not np.allclose(before.numpy(), after.numpy(), rtol=1e-2)


def test_points_are_learned(quick):
    options = dataclasses.replace(quick, dataset="points", epochs=5)
    options = dataclasses.replace(options, train_examples=None, test_examples=None)
    assert training.train(options)["results"]["accuracy"] > 0.9


@pytest.mark.slow
def test_seed_decides_the_run(small):
    options = dataclasses.replace(small, norm="none", overwrite=True)
    one, again = (training.train(options)["results"]["history"] for _ in range(2))
    assert one["loss"] == pytest.approx(again["loss"], rel=1e-5)
    assert one["val_loss"] == pytest.approx(again["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "schedule, warmup, expected",
    [
        ("cosine", 0, {0: 1, 20: 0.5, 40: 0}),
        ("cosine", 1, {0: 0, 5: 0.5, 10: 1, 25: 0.5, 40: 0}),
        ("step", 0, {0: 1, 19: 1, 20: 0.1, 29: 0.1, 30: 0.01, 39: 0.01}),
        ("step", 1, {0: 0.1, 1: 0.2, 8: 0.9, 9: 1, 10: 1, 19: 1, 20: 0.1, 30: 0.01}),
        ("linear_half", 0, {0: 1, 20: 1, 30: 0.5, 39: 0.05, 40: 0}),
        ("linear_half", 1, {0: 0, 5: 0.5, 10: 1, 20: 1, 30: 0.5, 40: 0}),
        ("constant", 0, {0: 1, 39: 1}),
        ("constant", 1, {0: 0.1, 1: 0.2, 8: 0.9, 9: 1, 39: 1}),
    ],
)
def test_schedules(schedule, warmup, expected):
    options = training.TrainOptions(schedule=schedule, warmup_epochs=warmup, epochs=4)
    rates = optimization.learning_rate_schedule(options, 2.0, steps_per_epoch=10)
    for step, rate in expected.items():
        found = rates(step) if callable(rates) else rates
        assert float(found) == pytest.approx(2 * rate, abs=1e-6), step


def test_a_finished_run_is_made_longer(quick, tmp_path):
    """It ends as if it had been so long from the start, and says so in its record."""
    options = dataclasses.replace(quick, schedule="constant", export=False)
    whole = training.train(dataclasses.replace(options, epochs=2, log_dir=str(tmp_path / "whole")))
    folder = str(tmp_path / "longer")
    training.train(dataclasses.replace(options, epochs=1, log_dir=folder))
    longer = dataclasses.replace(options, epochs=2, log_dir=folder, resume=True)
    found = training.train(longer)
    assert found["options"]["epochs"] == record(tmp_path / "longer")["options"]["epochs"] == 2
    assert found["results"]["resumed_at_epoch"] == 1
    for name, values in whole["results"]["history"].items():
        np.testing.assert_allclose(found["results"]["history"][name], values, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="begun with other options: epochs was 2, is 1"):
        training.train(dataclasses.replace(longer, epochs=1))


def test_a_run_whose_rates_depend_on_its_length_stays_as_it_is(quick, tmp_path):
    options = dataclasses.replace(quick, epochs=1, export=False, log_dir=str(tmp_path / "run"))
    training.train(options)
    with pytest.raises(ValueError, match="cosine schedule spreads the learning rate.*constant"):
        training.train(dataclasses.replace(options, epochs=2, resume=True))


@pytest.mark.parametrize(
    "norm, in_effect",
    [
        ("bn", {"control_multiplier": None, "decay_controls": None, "data_init": None}),
        ("sn", {"control_multiplier": 1.0, "decay_controls": True, "data_init": None}),
        ("bin", {"control_multiplier": 10.0, "decay_controls": None, "data_init": None}),
        ("wn", {"control_multiplier": None, "decay_controls": None, "data_init": True}),
    ],
)
def test_options_say_what_is_in_effect(norm, in_effect):
    _, _, options = catalog.select_model(training.TrainOptions(norm=norm))
    assert {name: getattr(options, name) for name in in_effect} == in_effect
    assert catalog.select_model(options)[2] == options


def test_mixed_precision_looks_for_overflow_on_every_replica():
    options = training.TrainOptions(precision="mixed_float16", norm="bn")
    _, _, options = catalog.select_model(options)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = optimization.make_optimizer(options, model, 0.1, None)
    assert isinstance(optimizer, keras_norms.LossScaleOptimizer)


def test_lines_of_progress(capsys):
    """They come while nothing else happens, and say where training is."""
    with progress.ProgressLines(3, 5, seconds=0.05) as lines:
        time.sleep(0.2)
        lines.on_epoch_begin(1)
        lines.on_train_batch_end(2, {"loss": 0.25})
        time.sleep(0.2)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "compiling the first step ..." and "compiling the first step" in printed
    assert printed[-1] == "epoch 2/3, step 3/5, loss 0.2500"
    time.sleep(0.15)
    assert not capsys.readouterr().out  # it has ended
