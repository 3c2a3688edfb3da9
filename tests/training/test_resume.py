"""A run that is killed, or told to end, and resumed is the run that nothing has interrupted."""

import dataclasses
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.callbacks import SwitchLogger
from tests.support import child
from tests.support.train_script import SCRIPT, complaints, record, run_script, script
from zoo.training import catalog, checkpoint, events, run_folder
from zoo.training.callbacks import ResumableTensorBoard
from zoo.training.options import TrainOptions

EPOCHS, STEPS = 3, 4
TINY = (
    *("--model", "lstm", "--norm", "sn", "--dropout", "0.2", "--width", "0.1", "--replicas", "2"),
    *("--epochs", str(EPOCHS), "--batch-size", "16", "--train-examples", str(32 * STEPS)),
    *("--test-examples", "40", "--deterministic", "--no-export"),
)


def interrupted(folder, moment, *arguments):
    """Runs the script until a moment of `support.interrupted`: its exit code and stderr."""
    process = start(folder, moment, *arguments)
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, "\n".join(complaints(errors))


def start(folder, moments, *arguments):
    options = (*TINY, *arguments, "--resume", "--log-dir", folder)
    return child.start("-m", "tests.support.interrupted", moments, *options)


def complete(folder, *arguments):
    done = run_script(*TINY, *arguments, "--resume", "--log-dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert not complaints(done.stderr), "nothing but progress and results is shown"
    return done.stdout


def curves(folder):
    """What TensorBoard shows, `{(part, tag): [(step, value), ...]}` in its order."""
    from tensorboard.compat.proto.event_pb2 import Event

    found = {}
    for path in sorted((folder / "tensorboard").rglob("*tfevents*")):
        part = path.parent.name
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = Event.FromString(data)
            for value in event.summary.value:
                tensor = tf.make_ndarray(value.tensor)
                # Texts and such hold times and folders.
                scalar = tensor.item() if tensor.dtype == np.float32 and not tensor.shape else None
                found.setdefault((part, value.tag), []).append((event.step, scalar))
    return found


def steps(folder):
    """The steps of each curve."""
    return {key: [step for step, _ in curve] for key, curve in curves(folder).items()}


def last_state(folder):
    (path,) = (folder / "checkpoints").glob(f"epoch-{EPOCHS:05d}-step-{0:07d}.npz")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def assert_same_run(one, other):
    """Equal in every bit: weights, statistics, switches, optimizer, seeds, metrics, curves."""
    mine, theirs = (record(folder)["results"] for folder in (one, other))
    for results in (mine, theirs):
        for name in ("seconds", "seconds_per_step", "resumed_at_epoch"):
            results.pop(name)
    assert mine == theirs
    mine, theirs = last_state(one), last_state(other)
    assert list(mine) == list(theirs)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
    models = [keras.saving.load_model(folder / "model.keras") for folder in (one, other)]
    for mine, theirs in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)
    assert curves(one) == curves(other)


def make_runs(tmp_path_factory):
    runs = {}

    def run(*arguments):
        if arguments not in runs:
            folder = tmp_path_factory.mktemp("uninterrupted") / "run"
            complete(folder, *arguments)
            runs[arguments] = folder
        return runs[arguments]

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run that nothing has interrupted, by its further arguments."""
    return make_runs(tmp_path_factory)


# Whole runs.


@pytest.mark.process
def test_stopped_killed_and_told_to_end(uninterrupted, tmp_path):
    arguments = ("--log-every", "3")
    folder = tmp_path / "run"
    # Stopped in the second epoch, and killed while it writes the checkpoint of that epoch.
    process = start(folder, "step:6:0:SIGSTOP,write:2:0.5:SIGKILL", *arguments)
    try:
        wait_until_stopped(process)
        before = (folder / "run.json").read_text()
        for flags in ([], ["--resume"], ["--overwrite"]):
            code, _, errors = script("--log-dir", folder, *flags)
            (line,) = errors.splitlines()
            assert code == 2 and "is in use: another process trains in it. Choose another" in line
        assert (folder / "run.json").read_text() == before
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (folder / "checkpoints" / "unfinished").exists()
    # The folder is free. Told to end in the third epoch.
    code, errors = interrupted(folder, "step:6:0:SIGTERM", *arguments)
    assert code == 128 + signal.SIGTERM
    assert errors == "SIGTERM: saved after epoch 3, step 2; go on with --resume"
    assert "resumed after 2 epochs and 2 steps" in complete(folder, *arguments)
    assert_same_run(folder, uninterrupted(*arguments))
    # The checks above have not compared nothing.
    found = steps(folder)
    for key, expected in {
        ("train", "epoch_loss"): [4, 8, 12],
        ("train", "batch_loss"): [3, 6, 9, 12],
        ("train", "keras"): [0],
        ("validation", "epoch_loss"): [4, 8, 12],
        ("validation", "evaluation_loss_vs_iterations"): [4, 8, 12],
        ("BN", "importance/net"): [0, 3, 4, 6, 8, 9, 12],
        ("switches", "metrics/val_loss"): [4, 8, 12],
        ("switches", "preferences/heat_map"): [0, 4, 8, 12],
        ("switches", "_hparams_/experiment"): [0],
        ("tensorboard", "run"): [0],
    }.items():
        assert found[key] == expected, key
    state = last_state(folder)
    names = {name for name, _, _ in json.loads(str(state["about"]))["variables"]}
    assert {"kernel", "gamma", "moving_mean", "mean_logits", "seed_generator_state"} <= names
    assert {"iteration", "learning_rate"} & names and any("momentum" in name for name in names)


def wait_until_stopped(process, seconds=300):
    end = time.monotonic() + seconds
    flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (state := os.waitid(os.P_PID, process.pid, flags)) is None or not state.si_pid:
        assert time.monotonic() < end, "it has not come so far"
        time.sleep(0.05)
    assert state.si_code == os.CLD_STOPPED, process.communicate()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--log-every", "3"), ()], ids=["3", "epoch"])
def test_killed_ten_times_anywhere(uninterrupted, tmp_path, arguments, record_property):
    draw = random.Random(len(arguments))
    kills = {"step": 0, "write": 0}
    for attempt in itertools.count():
        folder = tmp_path / str(attempt)
        for _ in range(5):  # times that one run is killed
            if sum(kills.values()) == 10:
                break
            # A run that goes on has fewer steps left; from the last one on, it saves its model.
            step = draw.choice([1, 2, 3, 5, 6, 9, 12])
            kind = draw.choice(["step", "step", "write"])
            moment = {
                "step": f"step:{step}:{draw.choice([0, draw.random(), 5 * draw.random()])}",
                "write": f"write:{draw.choice([1, 1, 2])}:{draw.choice([0, draw.random(), 1, 2])}",
            }[kind]
            code, errors = interrupted(folder, f"{moment}:SIGKILL", *arguments)
            assert code in (0, -signal.SIGKILL), errors
            kills[kind] += code != 0
        complete(folder, *arguments)
        assert_same_run(folder, uninterrupted(*arguments))
        if sum(kills.values()) == 10:
            break
    assert all(kills.values())
    record_property("kills", ", ".join(f"{n} in a {kind}" for kind, n in kills.items()))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    "moment, sent, message",
    [
        ("step:3:0", "SIGINT", "SIGINT: saved after epoch 1, step 3; go on with --resume"),
        # There is no rest of an epoch to go on with.
        ("step:4:0", "SIGTERM", "SIGTERM: saved after epoch 1; go on with --resume"),
    ],
)
def test_told_to_end(uninterrupted, tmp_path, moment, sent, message):
    code, errors = interrupted(tmp_path / "run", f"{moment}:{sent}")
    assert (code, errors) == (128 + signal.Signals[sent], message)
    complete(tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted())


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--precision", "mixed_float16", "--log-every", "3"),  # skips steps, which do not count
        ("--model", "resnet20", "--norm", "bin", "--dropout", "None", "--log-every", "3"),
        ("--model", "convpool", "--norm", "wn_mobn", "--dropout", "None"),
        ("--model", "transformer", "--norm", "bn(synchronized=True)"),
    ],
    ids=lambda arguments: "-".join(arguments[1::2]),
)
def test_of_every_kind(uninterrupted, tmp_path, arguments):
    folder = tmp_path / "run"
    assert interrupted(folder, "step:6:0:SIGTERM", *arguments)[0] == 128 + signal.SIGTERM
    assert interrupted(folder, "step:4:0:SIGKILL", *arguments)[0] == -signal.SIGKILL
    complete(folder, *arguments)
    assert_same_run(folder, uninterrupted(*arguments))
    # And the same options give the same result, with nothing in between.
    again = tmp_path / "again"
    complete(again, *arguments)
    assert_same_run(again, folder)


@pytest.mark.process
@pytest.mark.slow
def test_the_checkpoint_before_a_damaged_one(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    assert interrupted(folder, "step:10:0:SIGTERM")[0] == 128 + signal.SIGTERM
    last, before = sorted((folder / "checkpoints").glob("*.npz"), reverse=True)
    last.write_bytes(last.read_bytes()[:-1000])
    output = complete(folder)
    assert f"warning: {last} cannot be used" in output and "resumed after 2 epochs" in output
    assert_same_run(folder, uninterrupted())


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.process
def test_a_full_disk(tmp_path):
    """No file may become longer than what the events of two epochs need."""
    arguments = ["--model", "mlp", "--width", "0.1", "--train-examples", "64", "--epochs", "9"]
    arguments += ["--log-dir", str(tmp_path / "run")]
    full = child.run(SCRIPT, *arguments, preexec_fn=small_files)
    assert full.returncode == 2
    (line,) = complaints(full.stderr)
    assert line.startswith("error: ") and "written" in line and "--resume" in line
    assert record(tmp_path / "run")["results"] is None
    code, out, errors = script(*arguments, "--resume")
    assert code == 0, errors
    assert "resumed after" in out
    assert steps(tmp_path / "run")["BN", "importance/net"] == list(range(0, 19, 2))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])  # the first epoch, the second, the end
def test_a_full_file_system(uninterrupted, tmp_path, share):
    disk = tmp_path / "disk"
    disk.mkdir()
    files = [path for path in uninterrupted().rglob("*") if path.is_file()]
    pages = sum(-(-path.stat().st_size // 4096) for path in files)
    size = int(share * 4096 * pages)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        full = run_script(*TINY, "--log-dir", disk / "run")
        assert full.returncode == 2
        (line,) = complaints(full.stderr)
        assert line.startswith("error: ") and "No space left" in line and "--resume" in line
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        complete(disk / "run")
        assert_same_run(disk / "run", uninterrupted())
    finally:
        subprocess.run(["umount", disk], check=True)


# What cannot be resumed, or need not.


@pytest.fixture
def begun(tmp_path):
    """The folder of a run of one option, whose record says what the test wants of it."""

    def write(results=None, **options):
        options = TrainOptions(log_dir=str(tmp_path / "run"), **options)
        _, _, options = catalog.select_model(options)
        content = {"options": dataclasses.asdict(options), "versions": {}, "results": results}
        (tmp_path / "run").mkdir()
        run_folder.write_record(tmp_path / "run", content)
        return tmp_path / "run"

    return write


def test_other_options_are_refused(begun):
    folder = begun(epochs=5, norm="bn")
    code, _, errors = script("--log-dir", folder, "--resume", "--epochs", 6, "--norm", "gn")
    (line,) = errors.splitlines()
    assert code == 2 and line.startswith("error: ")
    assert "norm was 'bn', is 'gn', epochs was 5, is 6. Resume it with those" in line
    assert record(folder)["options"]["epochs"] == 5


def test_other_devices_are_refused(tmp_path):
    record = {"facts": {"global_batch": 64, "steps_per_epoch": 8}}
    run_folder.refuse_other_facts(tmp_path, record, {"global_batch": 64, "steps_per_epoch": 8})
    run_folder.refuse_other_facts(tmp_path, {}, {"global_batch": 32})  # of an older version
    with pytest.raises(ValueError, match="global_batch was 64, is 32, .*as many devices"):
        run_folder.refuse_other_facts(tmp_path, record, {"global_batch": 32, "steps_per_epoch": 16})


def test_a_complete_run_says_so(begun):
    results = {"accuracy": 0.5, "seconds": 1.0, "importance": {}}
    folder = begun(results, norm="bn")
    code, out, errors = script("--log-dir", folder, "--resume", "--norm", "bn")
    assert (code, errors) == (0, "")
    assert "This run is complete already." in out and "test accuracy: 50.00%" in out
    assert record(folder)["results"] == results


@pytest.mark.parametrize("content", ["", "{", "[]", '{"options": 1, "results": null}'])
def test_a_record_that_cannot_be_read(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    code, _, errors = script("--log-dir", tmp_path, "--resume")
    (line,) = errors.splitlines()
    assert code == 2 and "run.json cannot be read" in line and "--overwrite" in line
    assert (tmp_path / "run.json").read_text() == content


def test_what_is_no_run_is_not_deleted(tmp_path):
    (tmp_path / "model.keras").write_text("precious")
    code, _, errors = script("--log-dir", tmp_path, "--resume")
    (line,) = errors.splitlines()
    assert code == 2 and "model.keras, but no run.json" in line and "--overwrite" in line
    assert (tmp_path / "model.keras").read_text() == "precious"
    code, _, errors = script("--log-dir", tmp_path, "--resume", "--overwrite")
    assert code == 2 and "give one of the two" in errors


def test_a_folder_is_reserved_once(tmp_path):
    run, options = tmp_path / "a" / "run", TrainOptions(resume=True)
    with run_folder.reserve(run, options):
        with pytest.raises(OSError, match="is in use: another process trains in it"):
            with run_folder.reserve(run, options):
                pass
        assert run.exists()
    assert not (tmp_path / "a").exists(), "nothing was written"
    with run_folder.reserve(run, options):
        (run / "run.json").write_text("{}")
    assert [path.name for path in run.iterdir()] == ["run.json"]


# Checkpoints.


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3),
            keras_norms.SwitchableNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )
    model.compile(keras_norms.configure_optimizer(keras.optimizers.Adam(0.1), model), "mse")
    return model


def train(model, epochs=1):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.fit(x, x[:, :3], batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def state(model):
    variables = (*model.variables, *model.optimizer.variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_state(model, expected):
    for one, other in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def saved(model, tmp_path):
    """Two checkpoints, and the states that they hold: `(folder, [older, newer])`."""
    states = []
    for epoch in (1, 2):
        train(model)
        checkpoint.save(tmp_path, model, epoch, 0, {"loss": [0.5] * epoch})
        states.append(state(model))
    train(model)
    return tmp_path, states


def test_a_checkpoint_holds_everything(model, saved):
    folder, (_, newer) = saved
    after = state(model)
    assert all((one != other).any() for one, other in zip(after[:2], newer[:2], strict=True))
    position = checkpoint.restore(folder, model)
    assert (position.epoch, position.step, position.history) == (2, 0, {"loss": [0.5, 0.5]})
    assert_state(model, newer)
    train(model)  # seeds and the optimizer's state as well
    assert_state(model, after)


def test_two_checkpoints_are_kept(model, saved):
    folder, _ = saved
    checkpoint.save(folder, model, 2, 3, {})
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["epoch-00002-step-0000000.npz", "epoch-00002-step-0000003.npz"]
    assert checkpoint.restore(folder, model).step == 3


def test_no_checkpoint_is_the_start(model, tmp_path, capsys):
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    assert checkpoint.restore(tmp_path, model) == checkpoint.Position()
    assert_state(model, before)
    assert not capsys.readouterr().out


def damages(content, draw):
    for share in (0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999):
        yield content[: int(share * len(content))]
    yield content[:-1]
    yield b"\0" * len(content)
    yield os.urandom(len(content))
    for place in (*draw.sample(range(len(content)), 150), *range(len(content) - 60, len(content))):
        bit = 1 << draw.randrange(8)
        yield content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def test_damaged_checkpoints_are_passed_over(model, saved, capsys):
    """Truncated anywhere, or with any bit flipped: the one before it, or the very values."""
    folder, (older, newer) = saved
    last = folder / "epoch-00002-step-0000000.npz"
    content = last.read_bytes()
    refused = 0
    for damaged in damages(content, random.Random(0)):
        last.write_bytes(damaged)
        position = checkpoint.restore(folder, model)
        output = capsys.readouterr().out
        if position.epoch == 2:  # a bit that means nothing, such as one of a time
            assert_state(model, newer)
            assert not output
        else:
            assert position.epoch == 1
            assert_state(model, older)
            assert output.startswith(f"warning: {last} cannot be used: ")
            assert len(output.splitlines()) == 1
            assert not last.exists() and last.with_suffix(".unusable").read_bytes() == damaged
            refused += 1
    assert refused > 100


def test_foreign_checkpoints_are_passed_over(model, saved, capsys):
    folder, (_, newer) = saved
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.compile(keras.optimizers.Adam(0.1), "mse")
    train(other)
    for epoch, named in ((9, {"weights": np.zeros(3)}), (10, {"about": np.array("{}")})):
        np.savez(folder / f"epoch-{epoch:05d}-step-0000000.npz", **named)
    checkpoint.save(folder, other, 8, 0, {})
    assert checkpoint.restore(folder, model).epoch == 2
    assert_state(model, newer)
    output = capsys.readouterr().out
    assert output.count("it is no checkpoint of this program") == 2
    assert output.count("it is of another model or optimizer") == 1


def test_a_checkpoint_that_cannot_be_written(model, saved, monkeypatch):
    folder, (_, newer) = saved

    def fails(*arguments, **named):
        raise OSError(28, "No space left on device")

    for function in ("savez",):
        monkeypatch.setattr(checkpoint.np, function, fails)
    with pytest.raises(OSError, match="No space left on device: no checkpoint could be written"):
        checkpoint.save(folder, model, 3, 0, {})
    monkeypatch.undo()
    assert not (folder / "unfinished").exists()
    assert checkpoint.restore(folder, model).epoch == 2
    assert_state(model, newer)


# Events.


def write_events(folder, batches):
    with tf.summary.create_file_writer(str(folder)).as_default():
        for step in range(batches):
            for tag in ("batch_loss", "switch/a/mean/batch", "evaluation_loss_vs_iterations"):
                tf.summary.scalar(tag, float(step), step=step)
        for step in (3, 6, 9):
            tf.summary.scalar("epoch_loss", float(step), step=step)
        tf.summary.text("sample", "words", step=1)
    (path,) = folder.glob("*tfevents*")
    return path


def test_events_after_a_checkpoint_are_cut(tmp_path):
    path = write_events(tmp_path / "tensorboard" / "train", 9)
    events.cut(tmp_path / "tensorboard", batches=5, iterations=4)
    assert steps(tmp_path) == {
        ("train", "batch_loss"): list(range(6)),
        ("train", "switch/a/mean/batch"): list(range(5)),
        ("train", "evaluation_loss_vs_iterations"): list(range(5)),
        ("train", "epoch_loss"): [3],
    }
    content = path.read_bytes()
    events.cut(tmp_path / "tensorboard", batches=5, iterations=4)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("cut", [1, 5, 13, 40])
def test_the_end_of_a_file_of_events_is_cut(tmp_path, cut):
    path = write_events(tmp_path / "tensorboard", 9)
    events.check(tmp_path / "tensorboard", {})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(OSError, match="is the disk full.*--resume"):
        events.check(tmp_path / "tensorboard", {})
    events.cut(tmp_path / "tensorboard", batches=9, iterations=9)
    events.check(tmp_path / "tensorboard", {})
    assert steps(tmp_path)["tensorboard", "batch_loss"] == list(range(9))


def test_only_what_is_new_is_checked(tmp_path):
    path = write_events(tmp_path / "tensorboard", 9)
    known = {}
    events.check(tmp_path / "tensorboard", known)
    assert known == {str(path): path.stat().st_size}
    events.check(tmp_path / "tensorboard", known)
    with path.open("ab") as file:
        file.write(b"\1")
    with pytest.raises(OSError):
        events.check(tmp_path / "tensorboard", known)


@pytest.mark.parametrize("every", ["epoch", 1, 3, 7])
def test_curves_have_every_epoch(model, tmp_path, every):
    """Whatever number of steps lies between the points of batches; the switches' as well."""
    x = np.zeros((20, 4), "float32")
    loggers = [ResumableTensorBoard(tmp_path / "tensorboard", every, 0)]
    loggers.append(SwitchLogger(tmp_path / "tensorboard" / "switches", every, figures=False))
    model.fit(
        *(x, x[:, :3]),
        batch_size=4,
        epochs=3,
        validation_data=(x, x[:, :3]),
        callbacks=loggers,
        verbose=0,
    )
    found = steps(tmp_path)
    multiples = set() if every == "epoch" else set(range(every, 16, every))
    for part in ("train", "validation"):
        assert found[part, "epoch_loss"] == [5, 10, 15]  # the axis of all curves
    assert found["validation", "evaluation_loss_vs_iterations"] == [5, 10, 15]
    assert found.get(("train", "batch_loss"), []) == sorted(multiples)
    assert found["BN", "importance/net"] == sorted(multiples | {0, 5, 10, 15})


def test_beside_the_callback_of_keras(model, tmp_path):
    """Which lets nobody record between its own batches."""
    x = np.zeros((20, 4), "float32")
    switches = SwitchLogger(tmp_path / "tensorboard" / "switches", 3, figures=False)
    board = keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=4)
    model.fit(x, x[:, :3], batch_size=4, epochs=2, callbacks=[board, switches], verbose=0)
    assert steps(tmp_path)["BN", "importance/net"] == [0, 3, 5, 6, 9, 10]
