"""keras_norms.compare: the same twice, resumed, on time, and whatever a run does."""

import csv
import json
import os
import signal

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from keras_norms.selection import compare as module
from keras_norms.selection.judging import FAILED
from keras_norms.selection.plan import Budget
from tests.selection.made import cost, mlp, points, state
from tests.support.child import start

DATA = {"train": points(), "validation": points(64, seed=1)}
QUICK = {"seeds": 3, "steps": 16, "verbose": False}
# With it among the norms, no run is added that asks the model.
SN = "sn(statistics=('layer', 'batch'))"


def compare(model=None, norms=("bn", "gn(2)"), **options):
    model = mlp() if model is None else model
    return keras_norms.compare(model, norms=norms, **DATA | QUICK | options)


def measured(result):
    """What must not depend on when and where it was measured."""
    found = {k: v for k, v in result.facts.items() if k not in ("costs", "seconds", "date")}
    return json.loads(json.dumps(found))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A comparison with its folder, and the model before and after it."""
    folder = tmp_path_factory.mktemp("comparison")
    model = mlp()
    before = state(model)
    result = compare(model, norms=("bn", "wn"), batch_sizes=(32, 8), folder=folder)
    return result, folder, before, state(model)


def test_the_model_is_left_as_it_was(done):
    _, _, before, after = done
    assert before[1:] == after[1:]
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_is_measured(done):
    result, folder, _, _ = done
    facts = result.facts
    assert len(facts["runs"]) == 2 * 2 * 3 and not facts["missing"]
    for run in facts["runs"]:
        steps = [point["step"] for point in run["curve"]]
        assert steps == [i * 2 * 32 // run["batch_size"] for i in range(9)]
        assert (run["recalibrated"] is None) == (run["norm"] != "bn")
    costs = facts["costs"]["bn"]
    assert costs["step"]["ms"] > 0 and costs["inference"]["ms"] > 0 and costs["folded"]["ms"] > 0
    assert costs["parameters"] == 6 * 8 + 2 * 8 + 8 * 2 + 2 and set(costs["step_ms"]) == {"32", "8"}
    assert facts["costs"]["wn"]["folded"]["ms"] > 0
    # One more run asks the model, by switches over what it can take.
    (shares,) = facts["switches"].values()
    assert sum(shares["mean"].values()) == pytest.approx(1)
    constant = max(points(64, seed=1)[1].mean(), 1 - points(64, seed=1)[1].mean())
    assert facts["baseline"]["value"] == pytest.approx(constant, abs=1e-6)


def test_files(done):
    result, folder, _, _ = done
    rows = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    assert len(rows) == 12 * 9 and {"norm", "batch_size", "seed", "step", "accuracy"} <= set(
        rows[0]
    )
    again = keras_norms.ComparedNorms.read(folder)
    assert measured(again) == measured(result) and again.answers == result.answers
    assert {each.name for each in (folder / "tensorboard").iterdir()} == {*("bn", "wn", "switches")}
    for name in ("curves.png", "trade.png", "switches.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3 and "<script" not in html
    assert html.count("<h2>") == 8


def test_a_terminal_and_a_notebook(done, capsys):
    result, *_ = done
    result.table()
    printed = capsys.readouterr().out
    assert "accuracy with batches of 8" in printed and "What to do next" in printed
    assert "wn" in printed and "Compare again, with about 32 steps" in printed
    shown = result._repr_html_()
    assert "<h1>" in shown and "data:image/png" in shown and "<style" not in shown


def test_the_same_seeds_give_the_same_result():
    one, other = (measured(compare(norms=(SN,), seeds=1)) for _ in range(2))
    assert one == other


def test_a_comparison_is_resumed(tmp_path, monkeypatch):
    options = {"norms": (SN,), "seeds": 2}
    whole = compare(**options)
    runs, train, interrupted = [], module.train_and_measure, [KeyboardInterrupt]

    def broken(model, *args, **kwargs):
        if len(runs) == 1 and interrupted:
            raise interrupted.pop()
        runs.append(model)
        return train(model, *args, **kwargs)

    monkeypatch.setattr(module, "train_and_measure", broken)
    with pytest.raises(KeyboardInterrupt):
        compare(folder=tmp_path, **options)
    runs.clear()
    result = compare(folder=tmp_path, resume=True, **options)
    assert len(runs) == 1  # of 2, 1 was done
    assert measured(result) == measured(whole)
    with pytest.raises(ValueError, match="holds a comparison.*--resume"):
        compare(folder=tmp_path, **options)
    with pytest.raises(ValueError, match="holds another comparison.*steps: 16 and 8"):
        compare(folder=tmp_path, resume=True, **options | {"steps": 8})
    runs.clear()
    more = compare(folder=tmp_path, resume=True, **options | {"seeds": 3})
    assert len(runs) == 1 and len(more.facts["runs"]) == 3


KILLED = """
import os, signal, sys
from tests.selection import test_compare
from keras_norms.selection.store import Store
write, written = Store.write, []

def killed(self, run, found):
    write(self, run, found)
    written.append(run)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Store.write = killed
test_compare.compare(folder=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_kill_loses_nothing_but_the_run_in_progress(tmp_path, monkeypatch):
    with start("-c", KILLED, tmp_path, env={"CUDA_VISIBLE_DEVICES": "-1"}) as process:
        process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "runs")) == 3
    runs, train = [], module.train_and_measure

    def counted(*args, **kwargs):
        runs.append(args)
        return train(*args, **kwargs)

    monkeypatch.setattr(module, "train_and_measure", counted)
    result = compare(folder=tmp_path, resume=True)
    assert len(runs) == 4
    monkeypatch.undo()
    assert measured(result) == measured(compare())


class Clock:
    """Time that passes by steps alone."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def on_time(monkeypatch):
    """Compares with steps of 0.1 s, which may take longer than they were measured to."""

    def compare(slower=1.0, **options):
        clock = Clock()

        def train(model, data, validation, size, steps, seed, base, each_step):
            for _ in range(steps):
                clock.now += 0.1 * slower
                each_step()
            curve = [{"step": step, "loss": 1.0, "accuracy": 0.9} for step in (0, steps)]
            return {"curve": curve, "recalibrated": None, "shares": {}, "seconds": 0.1 * steps}

        costs = {norm: cost(100.0, 1.0) for norm in (SN, "gn(2)")}
        for each in costs.values():
            each["step_ms"] = {"32": 100.0}
        monkeypatch.setattr(module, "measure_costs", lambda *args: costs)
        monkeypatch.setattr(module, "train_and_measure", train)
        shown = {"minutes": 5.0, "ghost": False, "keep_weights": False, "replicas": 1}
        shown |= {"configure_optimizer": False}
        arguments = [mlp(), *DATA.values(), (SN, "gn(2)"), [32], 3, options.get("steps")]
        comparison = module.Comparison(*arguments, shown, None, "auto", Budget(5.0, clock))
        return comparison.run(1, None, False, False), clock.now

    return compare


@pytest.mark.parametrize(("slower", "steps"), [(1.0, None), (1.3, None), (3.0, 400)])
def test_the_time_is_kept(slower, steps, on_time):
    result, seconds = on_time(slower, steps=steps)
    assert 200 <= seconds <= 330  # of 300
    done = len(result.facts["runs"])
    assert done + result.facts["missing"] == 6
    if slower < 1.1 and steps is None:
        assert not result.facts["missing"]


def test_a_run_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    def build(norm):
        model = mlp(norm=keras_norms.get(norm).normalize)
        if norm == "ln":
            model.layers[-1].bias.assign([np.nan, 0.0])
        return model

    train = module.train_and_measure

    def broken(model, *args, **kwargs):
        if any(
            isinstance(n, keras_norms.GroupNormalization) and n.groups == 2 for n in model.layers
        ):
            raise MemoryError("no memory is left")
        return train(model, *args, **kwargs)

    monkeypatch.setattr(module, "train_and_measure", broken)
    result = compare(build, norms=("bn", "ln", "gn(2)"), seeds=1, folder=tmp_path)
    places = {place.norm: place.verdict for place in result.rankings[0].places}
    assert places["ln"] == places["gn(2)"] == FAILED and places["bn"] != FAILED
    failed = {run["norm"]: run["failed"] for run in result.facts["runs"]}
    assert failed["ln"] == "the loss was not finite after 2 steps"
    assert failed["gn(2)"] == "MemoryError: no memory is left"
    assert "no memory is left" in (tmp_path / "report.html").read_text()
    # What a loss did it does again; memory there may be tomorrow.
    assert len(list((tmp_path / "runs").glob("gn*"))) == 0


def test_ghost_batches_take_equal_steps_and_leave_other_norms_alone(monkeypatch):
    sizes, train = [], module.train_and_measure

    def watched(model, data, validation, size, *args):
        sizes.append(size)
        return train(model, data, validation, size, *args)

    monkeypatch.setattr(module, "train_and_measure", watched)
    facts = compare(norms=(SN, "gn(2)"), batch_sizes=(32, 8), ghost=True, seeds=1).facts
    assert sizes == [32] * 3
    ends = {(run["norm"], run["batch_size"]): run["curve"][-1] for run in facts["runs"]}
    assert ends["gn(2)", 8] == ends["gn(2)", 32] and ends[SN, 8] != ends[SN, 32]
    assert {end["step"] for end in ends.values()} == {16}


def test_a_metric_of_ones_own():
    def share(y, prediction):
        return keras.ops.mean(prediction, -1)

    with pytest.raises(ValueError, match='larger share is better.*mode="max"'):
        compare(mlp(metrics=[share]))
    result = compare(mlp(metrics=[share]), seeds=1, mode="min", norms=(SN,))
    assert result.facts["monitor"] == "share" and not result.facts["higher"]


def test_the_first_metric_of_the_model_decides():
    """Not the first by name, and no part of the loss."""
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(1, name="top"), "accuracy"]
    result = compare(mlp(metrics=metrics), seeds=1, norms=(SN,))
    assert result.facts["monitor"] == "top"
    assert compare(mlp(metrics=[]), seeds=1, norms=(SN,)).facts["monitor"] == "loss"


def test_another_model_is_not_resumed(tmp_path):
    compare(seeds=1, norms=(SN,), folder=tmp_path)
    model = mlp()
    model.layers[3].rate = 0.9
    with pytest.raises(ValueError, match="holds another comparison.*model"):
        compare(model, seeds=1, norms=(SN,), folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norms": ("bn", "groupnorm")}, "did you mean 'gn'"),
        ({"norms": ()}, "names that differ"),
        ({"norms": ("bn", "bn")}, "names that differ"),
        ({"norms": (layers.BatchNormalization,)}, "must be names"),
        ({"batch_sizes": (32, 1000)}, "above the 96 samples"),
        ({"batch_sizes": (32, 32)}, "must differ"),
        ({"batch_sizes": (32, 0)}, "positive int"),
        ({"batch_sizes": (32, 5), "ghost": True}, "multiple of the others"),
        ({"seeds": 0}, "positive int"),
        ({"steps": None}, "`steps`, `minutes`, or both"),
        ({"minutes": 0}, "positive"),
        ({"train": points()[0]}, "must be arrays"),
        ({"resume": True}, "needs the `folder`"),
        ({"monitor": "auc"}, "one of accuracy, loss"),
        ({"mode": "up"}, '"auto", "min" or "max"'),
        ({"model": mlp(norm=layers.ReLU)}, "no norm that could be replaced"),
        ({"norms": ("bn", "in")}, "'in' cannot be put into this model"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_any_training(options, message, monkeypatch):
    def train(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(keras.Model, "train_on_batch", train)
    with pytest.raises(ValueError, match=message):
        compare(**options)


@pytest.mark.slow
@pytest.mark.process
def test_two_replicas():
    code = """
        import keras_norms.replicas
        keras_norms.replicas.mirrored(2)
        from tests.selection.test_compare import compare
        norms = ("bn", "gn(2)", "bn(synchronized=True)")
        result = compare(norms=norms, replicas=2, seeds=1)
        print(*result.facts["replicas"].values())
    """
    from tests.support.child import run_code

    own, exact, synchronized = map(float, run_code(code).splitlines()[-1].split())
    assert exact < 1e-5 and synchronized < 1e-5 and own > 1e-4
