"""scripts/train.py on several hosts: two processes on loopback are one on the global batch."""

import json
import signal
import socket
import subprocess
import time

import keras
import numpy as np
import pytest

import keras_norms  # noqa: F401, models are loaded
from tests.support import child
from tests.support.train_script import SCRIPT, record, script
from zoo.training import workers

OPTIONS = (
    *("--model", "mlp", "--norm", "ln", "--dataset", "digits", "--width", "0.5"),
    *("--train-examples", "256", "--test-examples", "50", "--learning-rate", "0.5"),
)


def start(folder, *arguments):
    """Starts both workers; each prints into a file of its own."""
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("localhost", 0))
        addresses = [f"localhost:{free.getsockname()[1]}" for free in (one, two)]
    workers = []
    for index in (0, 1):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with open(folder.parent / f"worker{index}.txt", "w") as output:
            options = (*OPTIONS, *arguments, "--log-dir", folder)
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            worker = child.start(SCRIPT, *options, env={"TF_CONFIG": config}, **streams)
        workers.append(worker)
    return workers


def finish(workers, folder, seconds=240):
    """Exit codes and what was printed."""
    try:
        codes = [worker.wait(seconds) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return codes, [(folder.parent / f"worker{index}.txt").read_text() for index in (0, 1)]


def assert_same_run(one, other):
    for name, values in one["results"]["history"].items():
        np.testing.assert_allclose(values, other["results"]["history"][name], rtol=1e-5, atol=1e-6)


@pytest.mark.process
def test_two_workers_are_one_process(tmp_path):
    folder = tmp_path / "workers" / "run"
    folder.parent.mkdir()
    codes, outputs = finish(start(folder, "--epochs", "2", "--batch-size", "16"), folder)
    assert codes == [0, 0], outputs
    assert "global batch: 32 = 16 x 2 replica(s)" in outputs[0]
    assert "test accuracy" in outputs[0] and "trained; the first worker" in outputs[1]
    assert outputs[0].count("Epoch 2/2") == 1 and "Epoch" not in outputs[1]
    single = tmp_path / "single"
    code, _, errors = script(*OPTIONS, "--epochs", "2", "--batch-size", "32", "--log-dir", single)
    assert code == 0, errors
    assert_same_run(record(folder), record(single))
    models = [keras.saving.load_model(path / "model.keras") for path in (folder, single)]
    for mine, theirs in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_replicas_are_not_chosen_twice(tmp_path, monkeypatch):
    config = {"cluster": {"worker": ["localhost:1", "localhost:2"]}}
    config["task"] = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    code, _, errors = script(*OPTIONS, "--replicas", "2", "--log-dir", tmp_path / "run")
    assert code == 2 and "Leave --replicas out" in errors


def test_one_of_several_workers_is_the_chief(monkeypatch):
    def chiefs(cluster):
        found = []
        for kind, addresses in cluster.items():
            for index in range(len(addresses)):
                task = {"type": kind, "index": index}
                monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
                found += [f"{kind}{index}"] * workers.is_chief()
        return found

    assert chiefs({"worker": ["a:1", "b:1"]}) == ["worker0"]
    assert chiefs({"chief": ["a:1"], "worker": ["b:1", "c:1"]}) == ["chief0"]
    monkeypatch.delenv("TF_CONFIG")
    assert workers.is_chief()


def trained_for_two_epochs(tmp_path):
    """Starts a long run on two workers, and waits until it has its second checkpoint."""
    folder, options = tmp_path / "workers" / "run", ("--epochs", "60", "--batch-size", "16")
    folder.parent.mkdir()
    processes = start(folder, *options)
    deadline = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("epoch-0000[2-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return folder, processes, options


@pytest.mark.process
@pytest.mark.slow
def test_workers_that_are_told_to_end_save_together(tmp_path):
    folder, processes, options = trained_for_two_epochs(tmp_path)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    codes, outputs = finish(processes, folder)
    # One may see that the other has gone before it gets so far itself.
    assert 128 + signal.SIGTERM in codes and set(codes) <= {128 + signal.SIGTERM, 2}, outputs
    assert any("SIGTERM: saved after epoch" in output for output in outputs)
    codes, outputs = finish(start(folder, *options, "--resume"), folder)
    assert codes == [0, 0], outputs
    assert all("resumed after" in output for output in outputs)


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_a_restart_resumes(tmp_path):
    folder, workers, options = trained_for_two_epochs(tmp_path)
    workers[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes, outputs = finish(workers, folder)
    assert time.monotonic() - killed < 60
    assert codes == [2, -signal.SIGKILL]
    assert outputs[0].splitlines()[-1] == (
        "error: Another worker is gone, or cannot be reached. Start all workers again with "
        "--resume."
    )
    codes, outputs = finish(start(folder, *options, "--resume"), folder)
    assert codes == [0, 0], outputs
    assert all("resumed after" in output for output in outputs)
    straight = tmp_path / "straight" / "run"
    straight.parent.mkdir()
    codes, outputs = finish(start(straight, *options), straight)
    assert codes == [0, 0], outputs
    assert_same_run(record(folder), record(straight))
