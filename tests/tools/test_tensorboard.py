"""The tab "Norms" of TensorBoard: what its server reads and answers."""

import argparse
import json
import os
import pkgutil
import tomllib

import keras
import numpy as np
import pytest
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.util.tensor_util import make_tensor_proto
from werkzeug.test import Client

from keras_norms import BatchInstanceNormalization, SwitchableNormalization, analysis
from keras_norms.callbacks import SwitchLogger
from keras_norms.tensorboard import store as stores
from keras_norms.tensorboard.plugin import STATIC, NormsPlugin
from keras_norms.tensorboard.store import Store, rebin
from tests.support import events
from tests.support.child import ROOT
from zoo.laboratory.claims import published


def steps_of(store, name="run"):
    return store.runs[name].rows()[0]


def read(folder, store=None):
    store = store or Store({"": folder})
    store.read()
    return store


def check_equal(store, folder, name):
    """The store says what `analysis.read` says of the same files."""
    history = analysis.read(folder).history
    steps, values = store.runs[name].rows()
    assert steps == list(history)
    for (path, kind, statistic), column in store.runs[name].columns.items():
        expected = [layers[path][kind][statistic] for layers in history.values()]
        np.testing.assert_array_equal(values[:, column], np.float32(expected))


@pytest.fixture
def logged(tmp_path):
    """A training run that SwitchLogger has logged."""
    norms = [SwitchableNormalization(name="stem_norm"), BatchInstanceNormalization(name="a_norm")]
    model = keras.Sequential([keras.Input((6, 6, 3)), *norms])
    model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
    x = keras.random.normal((8, 6, 6, 3))
    logger = SwitchLogger(tmp_path / "run", figures=False, hparams={"batch_size": 4, "seed": 1})
    model.fit(x, x * 2, batch_size=4, epochs=3, verbose=0, callbacks=[logger])
    return tmp_path


def test_reads_what_the_callback_writes(logged):
    store = read(logged)
    assert list(store.runs) == ["run"] and not store.problems()
    check_equal(store, logged / "run", "run")
    run = store.runs["run"]
    assert steps_of(store) == [0, 2, 4, 6]
    assert run.options == {"batch_size": 4, "seed": 1}
    steps, paths, counts = run.gates()
    assert (steps, paths) == ([0, 2, 4, 6], ["a_norm"])
    np.testing.assert_allclose(counts.sum(-1), 3, rtol=1e-5)  # channels
    assert stores.statistics(store.runs) == ["instance", "layer", "batch"]
    (stem, gated) = run.describe()["layers"]
    assert stem["stage"] == "stem" and set(stem["weights"]) == {"mean", "variance"}
    assert gated["path"] == "a_norm" and list(gated["weights"]["gate"]) == ["batch"]


def test_several_runs_and_folders_without_switches(tmp_path):
    for seed in range(3):
        run = tmp_path / f"s{seed}" / "switches"
        events.write(run, events.options(seed=seed) + events.weights(0) + events.weights(5))
        events.write(tmp_path / f"s{seed}" / "train", events.scalar("epoch_loss", 5, 0.5))
        events.write(run / "BN", events.scalar("importance/net", 5, 0.5))
    store = read(tmp_path)
    assert list(store.runs) == [f"s{seed}/switches" for seed in range(3)]
    assert [run.options["seed"] for run in store.runs.values()] == [0, 1, 2]
    assert store.files() == 9


def test_tags_of_version_0_1_and_simple_values(tmp_path):
    """The means had the statistic in their tag, and there was a layout of custom scalars."""
    old = events.scalar("importance/net/batch", 0, 0.3) + events.scalar("custom_scalars__c", 0, 0)
    event = stores.Event(step=0)
    event.summary.value.add(tag="gate/a/norm/batch", simple_value=0.75)
    events.write(tmp_path / "run", old + events.record(event) + events.weights(0))
    store = read(tmp_path)
    run = store.runs["run"]
    assert len(run.columns) == 1 + 24
    steps, values = run.rows()
    assert steps == [0] and values[0, run.columns["a/norm", "gate", "batch"]] == 0.75


def test_each_byte_is_read_once_while_a_run_grows(tmp_path, monkeypatch):
    parsed, parse = [], Store._parse
    monkeypatch.setattr(
        Store,
        "_parse",
        lambda self, name, data: parsed.append(len(data)) or parse(self, name, data),
    )
    path = events.write(tmp_path / "run", events.weights(0))
    store = read(tmp_path)
    generation = store.runs["run"].generation
    for step in (1, 2, 3):
        events.write(tmp_path / "run", events.weights(step))
        read(tmp_path, store)
        assert steps_of(store) == list(range(step + 1))
    version = store.version
    read(tmp_path, store)
    assert store.version == version and store.runs["run"].generation == generation
    assert sum(parsed) == path.stat().st_size
    check_equal(store, tmp_path / "run", "run")


@pytest.mark.parametrize("chunk", [61, 1 << 20])
def test_an_event_that_is_half_written_is_read_when_it_is_whole(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(stores, "CHUNK", chunk)
    whole = events.weights(0) + events.weights(1)
    path = events.write(tmp_path / "run", whole[:-7])
    store = read(tmp_path)
    assert steps_of(store) == [0] and not store.problems()  # it is being written
    os.utime(path, (1, 1))
    (problem,) = read(tmp_path, store).problems().values()
    assert "ends within an event" in problem and "killed" in problem
    events.write(tmp_path / "run", whole[-7:])
    assert steps_of(read(tmp_path, store)) == [0, 1] and not store.problems()


def test_empty_and_broken_files_are_named_and_the_rest_is_read(tmp_path):
    empty = events.write(tmp_path / "empty", b"")
    good = events.weights(0)
    broken = events.write(tmp_path / "broken", good + b"no event at all, though long enough")
    size = int.from_bytes(good[:8], "little")
    rubbish = b"switch/".ljust(size + 4, b"\xff")
    garbled = events.write(tmp_path / "garbled", good + good[:12] + rubbish)
    store = read(tmp_path)
    problems = store.problems()
    assert set(problems) == {str(empty), str(broken), str(garbled)}
    assert "empty" in problems[str(empty)]
    for path in (broken, garbled):
        assert f"broken at byte {len(good):,}" in problems[str(path)]
        assert steps_of(store, path.parent.name) == [0]
    events.write(tmp_path / "empty", events.weights(0))
    assert str(empty) not in read(tmp_path, store).problems()


@pytest.mark.parametrize("tag", ["gates/rate", "gate/lstm/forget", "switch/lamp/is/on"])
def test_tags_of_others_are_left_alone(tmp_path, tag):
    other = b"".join(events.scalar(tag, step, 0.5) for step in (0, 1))
    events.write(tmp_path / "a", other + events.weights(0) + events.weights(1))
    events.write(tmp_path / "b", events.weights(0))
    store = read(tmp_path)
    assert list(store.runs) == ["a", "b"] and not store.problems()
    assert steps_of(store, "a") == [0, 1] and len(store.runs["a"].columns) == 24


def test_a_tag_or_tensor_that_is_damaged_names_its_file(tmp_path):
    odd = events.scalar("switch/a/mean/batch", 1, 0.5).replace(b"/a/", b"/\xff/")
    first = events.write(tmp_path / "a", events.weights(0) + odd)
    event = stores.Event(step=1)
    event.summary.value.add(tag="switch/a/mean/batch").tensor.CopyFrom(
        make_tensor_proto([1.0, 2.0])
    )
    second = events.write(tmp_path / "b", events.weights(0) + events.record(event))
    events.write(tmp_path / "c", events.weights(0))
    store = read(tmp_path)
    assert list(store.runs) == ["a", "b", "c"]
    assert list(store.problems()) == [str(first), str(second)]


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    first = b"".join(events.weights(step) for step in range(6))
    events.write(tmp_path / "run", first)
    store = read(tmp_path)
    generation = store.runs["run"].generation
    again = events.weights(3, lean=0.2) + events.weights(4, lean=0.2)
    events.write(tmp_path / "run", again, name="events.out.tfevents.2.host")
    assert steps_of(read(tmp_path, store)) == [0, 1, 2, 3, 4]
    assert store.runs["run"].generation > generation
    check_equal(store, tmp_path / "run", "run")


def test_a_file_that_was_cut_or_a_run_that_is_gone(tmp_path):
    path = events.write(tmp_path / "run", events.weights(0) + events.weights(1))
    events.write(tmp_path / "other", events.weights(0))
    store = read(tmp_path)
    generation = store.runs["run"].generation
    (tmp_path / "new").write_bytes(events.weights(0, lean=0.5))
    os.replace(tmp_path / "new", path)
    read(tmp_path, store)
    assert steps_of(store) == [0] and store.runs["run"].generation > generation
    (tmp_path / "other" / path.name).unlink()
    assert list(read(tmp_path, store).runs) == ["run"]


def test_what_is_said_of_a_file_goes_with_it(tmp_path):
    events.write(tmp_path / "run", events.weights(0))
    later = events.write(tmp_path / "run", events.weights(1), name="events.out.tfevents.2.host")
    empty = events.write(tmp_path / "empty", b"")
    store = read(tmp_path)
    version, generation = store.version, store.runs["run"].generation
    empty.unlink()
    assert not read(tmp_path, store).problems() and store.files() == 2
    assert store.version > version
    later.unlink()  # one file of a run
    assert steps_of(read(tmp_path, store)) == [0] and store.runs["run"].generation > generation


def test_what_is_wrong_with_a_file_is_news(tmp_path):
    path = events.write(tmp_path / "run", events.weights(0)[:-7])
    store = read(tmp_path)
    version = store.version
    os.utime(path, (1, 1))  # nothing was read, and it is no longer being written
    assert read(tmp_path, store).problems() and store.version > version
    version = store.version
    assert read(tmp_path, store).version == version


def test_two_models_in_a_folder_are_named(tmp_path):
    first, second = (events.weights(step, paths=[f"norm{step}"]) for step in (0, 1))
    events.write(tmp_path / "run", first)
    assert not read(tmp_path).problems()  # the first step is being written
    events.write(tmp_path / "run", second)
    assert "two models" in read(tmp_path).problems()["run"]


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    events.write(tmp_path / "a" / "run", events.weights(0))
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "a" / "run")
    assert list(read(tmp_path).runs) == ["a/run", "other"]


def test_a_step_counts_when_it_is_complete(tmp_path):
    parts = events.weights(1)
    events.write(tmp_path / "run", events.weights(0) + parts[: len(parts) // 2])
    assert steps_of(read(tmp_path)) == [0]


def test_rebin_keeps_channels_and_places():
    buckets = np.array([[0.10, 0.15, 2.0], [0.15, 0.25, 4.0], [0.97, 1.0, 1.0], [0.9, 0.9, 3.0]])
    counts = rebin(buckets)
    assert counts.sum() == pytest.approx(10)
    assert counts[2:5] == pytest.approx([2, 2, 2]) and counts[18] == 3 and counts[19] == 1


@pytest.fixture
def client(tmp_path):
    """A client of TensorBoard's own application with this plugin, and the folder it reads."""
    plugin = NormsPlugin(TBContext(logdir=str(tmp_path)))
    return Client(TensorBoardWSGI([plugin])), plugin, tmp_path


def get(client, route):
    response = client.get(f"/data/plugin/norms/{route}")
    assert response.status_code == 200, response.text
    return response


def unpack(response):
    length = int.from_bytes(response.data[:4], "little")
    header = json.loads(response.data[4 : 4 + length])
    return header, np.frombuffer(response.data[4 + length :], "<f4")


def test_routes(client):
    client, plugin, folder = client
    assert not plugin.is_active()
    events.write(folder / "a", events.options(seed=1) + events.weights(0) + events.weights(3))
    plugin.store.read()
    assert plugin.is_active()
    answer = get(client, "runs?version=-1").json
    (run,) = answer["runs"]
    assert (run["name"], run["rows"], run["options"]) == ("a", 2, {"seed": 1})
    assert answer["colours"]["batch"] == "#004488" and "seed" in answer["not_compared"]
    assert "runs" not in get(client, f"runs?version={answer['version']}").json
    header, values = unpack(get(client, f"weights?run=a&from=0&generation={run['generation']}"))
    assert header["steps"] == [0, 3] and len(values) == 2 * header["columns"]
    layer = run["layers"][-1]["weights"]["mean"]
    assert values.reshape(2, -1)[1, layer["batch"]] == pytest.approx(1 / 3 + 0.09)
    header, values = unpack(get(client, f"weights?run=a&from=1&generation={run['generation']}"))
    assert header["steps"] == [3] and len(values) == header["columns"]
    header, _ = unpack(get(client, "weights?run=a&from=1&generation=-1"))
    assert header["steps"] == [0, 3]  # rows of another generation are not true
    missing = client.get("/data/plugin/norms/weights?run=b")
    assert missing.status_code == 404 and "no run 'b'" in missing.text


def test_gates_route(client):
    client, plugin, folder = client
    scalar = events.scalar("gate/norm/batch", 0, 0.5)
    buckets = np.array([[0.4, 0.45, 3.0], [0.45, 0.5, 5.0]])
    events.write(folder / "a", scalar + events.gates("norm", 0, buckets))
    plugin.store.read()
    header, counts = unpack(get(client, "gates?run=a"))
    assert header == {"steps": [0], "paths": ["norm"], "bins": stores.BINS}
    assert counts[8] == pytest.approx(3) and counts[9] == pytest.approx(5)


def test_the_page_and_all_it_imports_are_served(client):
    client, _, _ = client
    entry = client.get("/data/plugin_entry.html?name=norms")
    assert "./static/index.js" in entry.text
    for path in STATIC.rglob("*.*"):
        served = get(client, f"static/{path.relative_to(STATIC).as_posix()}")
        assert served.data == path.read_bytes()
        if path.suffix == ".js":
            assert served.mimetype in ("text/javascript", "application/javascript")
    outside = client.get("/data/plugin/norms/static/../plugin.py")
    assert outside.status_code == 404


def test_tensorboard_finds_the_plugin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = project["entry-points"]["tensorboard_plugins"].values()
    assert pkgutil.resolve_name(name) is NormsPlugin


def test_several_log_dirs(tmp_path):
    events.write(tmp_path / "x" / "run", events.weights(0))
    events.write(tmp_path / "y", events.weights(0))
    x, y = f"{tmp_path}/x", f"{tmp_path}/y"

    def runs(spec):
        plugin = NormsPlugin(TBContext(logdir="", flags=argparse.Namespace(logdir_spec=spec)))
        plugin.store.read()
        return list(plugin.store.runs)

    assert runs(f"first:{x},second:{y}") == ["first/run", "second/."]
    assert runs(f"{x},{y}") == [f"{x}/run", f"{y}/."]  # as TensorBoard names them
    (tmp_path / "x").rename(tmp_path / "x:x")
    assert runs(f"{x}:x") == [f"{x}:x/run"]


def test_the_log_dir_may_be_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    events.write(tmp_path / "logs" / "run", events.weights(0))
    plugin = NormsPlugin(TBContext(logdir="~/logs"))
    plugin.store.read()
    assert list(plugin.store.runs) == ["run"]


def test_the_tab_needs_switches_not_only_hyperparameters(client):
    _, plugin, folder = client
    events.write(folder / "run", events.options(seed=1))
    plugin.store.read()
    assert plugin.store.runs and not plugin.is_active()


def test_the_published_bars_are_those_of_the_laboratory():
    """A copy, as the package does not import the zoo."""
    data = json.loads((STATIC / "published.json").read_text())
    for size, kinds in data["shares"].items():
        for kind, blocks in kinds.items():
            for name, shares in zip(data["blocks"], blocks, strict=True):
                expected = published.BLOCKS[int(size)][name][kind]
                assert dict(zip(data["statistics"], shares, strict=True)) == expected
    assert {int(size) for size in data["shares"]} == set(published.BLOCKS)
