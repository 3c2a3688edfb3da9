"""Studies: verdicts, runs that are done once, results and figures, and each study's own plan."""

import collections
import dataclasses
import datetime
import json
import math
import multiprocessing
import pickle
import re
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import zoo.norms
from keras_norms.intervals import estimate
from keras_norms.output import markdown_table
from tests.support import child
from tests.support.fake_task import Fake, double, runs
from zoo.laboratory import execute, figures, provenance, results
from zoo.laboratory.judge import judge
from zoo.laboratory.shares import Shares, Simplex
from zoo.laboratory.studies import studies
from zoo.laboratory.study import SCALES, Claim, Learnt, Rows, Scale, Study, Table, gap, subtract
from zoo.laboratory.tasks import cost
from zoo.training import catalog, options

STUDIES = studies()


# Verdicts.


def claim(threshold=0.0, **facts):
    facts = {"name": "a", "statement": "It grows", "source": "S", "measured": "growth"} | facts
    return Claim(effect=lambda rows: rows.mean("effect"), threshold=threshold, **facts)


def rows_of(effects):
    """A row for each seed, from 0 on."""
    return Rows({"seed": seed, "effect": effect} for seed, effect in enumerate(effects))


def judge_one(effects, threshold=0.0, **facts):
    (found,) = judge([claim(threshold, **facts)], rows_of(effects), range(len(effects)))
    return found


def verdict(effects, threshold=0.0):
    return judge_one(effects, threshold)["verdict"]


@pytest.mark.parametrize("effects", [(1.0, 2.0), (0.3, -0.1, 0.2), (5.0, 4.0, 4.5, 7.0, 3.0)])
def test_interval_and_p_are_those_of_student(effects):
    found = judge_one(effects, 0.5)
    mean = statistics.fmean(effects)
    expected = stats.t.interval(0.9, len(effects) - 1, mean, stats.sem(effects))
    assert found["interval"] == pytest.approx(expected, rel=1e-12)
    assert (found["mean"], found["spread"]) == pytest.approx((mean, statistics.stdev(effects)))
    assert found["effects"] == dict(enumerate(effects))
    assert found["p"] == pytest.approx(stats.ttest_1samp(effects, 0.5).pvalue, rel=1e-9)


def test_verdicts_turn_where_the_interval_ends():
    # t of 2 degrees of freedom is 2.92 at 95 %: 2 +- 2.92 / sqrt(3).
    low, high = 2 - 2.919985580 / 3**0.5, 2 + 2.919985580 / 3**0.5
    for threshold, expected in (
        *((low - 1e-6, "holds"), (low + 1e-6, "undecided")),
        *((high - 1e-6, "undecided"), (high + 1e-6, "does not")),
    ):
        assert verdict([1.0, 2.0, 3.0], threshold) == expected
    # Without any spread the interval is a point, and no verdict where it is the threshold.
    for threshold, expected in ((0.9, "holds"), (1.0, "undecided"), (1.1, "does not")):
        assert verdict([1.0, 1.0, 1.0], threshold) == expected


@pytest.mark.parametrize("effects", [[], [9.0], [9.0, 9.1], [None] * 3, [9.0, None, None]])
def test_less_than_three_effects_decide_nothing(effects):
    found = judge_one(effects)
    assert (found["verdict"], found["corrected"]) == ("undecided", None)
    known = [effect for effect in effects if effect]
    assert found["mean"] == (pytest.approx(statistics.fmean(known)) if known else None)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_a_missing_effect_decides_nothing(missing):
    found = judge_one([9.0, 9.1, missing, 9.2])
    assert found["verdict"] == "undecided" and found["mean"] == pytest.approx(9.1)
    assert verdict([9.0, 9.1, 9.2]) == "holds"
    (found,) = judge([claim()], rows_of([9.0, 9.1, 9.2]), range(4))
    assert found["verdict"] == "undecided"


def scaled(factor):
    """A claim whose threshold lies so many spreads below the effects 9, 10 and 11."""
    return claim(10 - factor)


def test_many_claims_need_more_than_one():
    """As in Holm's paper: each p is compared with a tenth over the number of those left."""
    rows, seeds = rows_of([9.0, 10.0, 11.0]), range(3)
    claims = [scaled(factor) for factor in (2, 30, -30, 3, 0.1)]
    found = judge(claims, rows, seeds)
    p = [each["p"] for each in found]
    order = sorted(range(5), key=p.__getitem__)
    expected = {}
    for rank, index in enumerate(order):
        own = min(1.0, (5 - rank) * p[index])
        expected[index] = max([own, *(expected[i] for i in order[:rank])])
    assert [each["corrected"] for each in found] == pytest.approx([expected[i] for i in range(5)])
    decided = [each["verdict"] for each in found]
    assert decided == ["undecided", "holds", "does not", "undecided", "undecided"]
    assert judge([scaled(2)], rows, seeds)[0]["verdict"] == "holds", "alone it would be decided"


def test_claims_without_a_verdict_do_not_count_for_others():
    rows, seeds = rows_of([9.0, 10.0, 11.0]), range(3)
    untaught = dataclasses.replace(scaled(2), learnt=learnt(100))
    missing = dataclasses.replace(scaled(2), effect=lambda rows: None)
    found = judge([scaled(2), untaught, missing], rows, seeds)
    assert [each["verdict"] for each in found] == ["holds", "not tested", "undecided"]
    assert found[1]["corrected"] is None and found[1]["mean"] == pytest.approx(10)


def learnt(least):
    return Learnt("its effect is large", lambda rows: rows.mean("effect"), least, "{:.1f}")


@pytest.mark.parametrize(
    "least, expected", [(9.0, "holds"), (9.01, "not tested"), (100, "not tested")]
)
def test_one_net_that_has_not_learnt_is_enough(least, expected):
    found = judge_one([9.0, 10.0, 11.0], learnt=learnt(least))
    assert found["verdict"] == expected and found["learnt"] == {0: 9.0, 1: 10.0, 2: 11.0}
    nothing = Learnt("it is there", lambda rows: None, 0.0)
    assert judge_one([9.0, 10.0, 11.0], learnt=nothing)["verdict"] == "not tested"


def test_a_claim_across_seeds_sees_the_other_judged_ones():
    seen = {}

    def effect(rows, others):
        seen[rows[0]["seed"]] = others.values("seed")
        return 1.0

    across = dataclasses.replace(claim(across_seeds=True), effect=effect)
    rows = Rows({"seed": seed} for seed in (0, 1, 2, 100))
    assert judge([across], rows, (0, 1, 2))[0]["verdict"] == "holds"
    assert seen == {0: [1, 2], 1: [0, 2], 2: [0, 1]}


def test_intervals_of_pairs_hold_what_they_promise(rng):
    """The mean of a product of two seeds: how often its interval misses 1."""
    missed = {True: 0, False: 0}
    for _ in range(1000):
        x = rng.normal(1, 1, (5, 12))  # seeds, layers
        values = [(x[i] * np.delete(x, i, 0).mean(0)).mean() for i in range(5)]
        for pairs in missed:
            low, high = estimate(values, pairs=pairs).interval
            missed[pairs] += not low < 1 < high
    assert missed[True] < 130 < 300 < missed[False]
    assert estimate([1.0, 2.0], pairs=True).p is None


numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, min_size=3, max_size=6), numbers, st.floats(1.001, 10), st.floats(0, 9))
def test_verdicts_obey_reason(effects, threshold, wider, more):
    before = verdict(effects, threshold)
    mean = statistics.fmean(effects)
    spread = [mean + wider * (effect - mean) for effect in effects]
    allowed = {"undecided"} if before == "undecided" else {"undecided", before}
    near = abs(mean - threshold) < 1e-6  # where rounding decides
    assert near or verdict(spread, threshold) in allowed, "more spread tells less"
    raised = [effect + more for effect in effects]
    order = ["does not", "undecided", "holds"]
    assert near or order.index(verdict(raised, threshold)) >= order.index(before)
    assert verdict(effects[::-1], threshold) == before


def study(**facts):
    facts = {"claims": (claim(),), "calibration": (100, 101)} | facts
    scales = {"cpu": Scale({"size": 1}, (0, 1, 2))}
    return Study("Does it grow?", "About growth.", lambda size: [], scales, **facts)


def result(rows, seeds, failures=None, **facts):
    done = execute.Executed(rows, 60.0, failures or {}, "2026-11-28T08:00:00+00:00", ["abc"])
    return results.result("synthetic", study(**facts), "cpu", seeds, "python study.py", done, 1)


def test_criteria_are_all_files_that_decide():
    names = {path.name for path in results.criteria("preferences")}
    assert names == {"preferences.py", "published.py", "comparison.py", "judge.py"}
    names = {path.name for path in results.criteria("batch_size")}
    assert names == {"batch_size.py", "common.py", "judge.py"}


def test_calibration_seeds_are_not_judged():
    rows = rows_of([1.0, 1.1, 0.9])
    calibration = Rows({"seed": seed, "effect": -1e6} for seed in (100, 101))
    alone = result(rows, [0, 1, 2])
    beside = result(Rows(rows + calibration), [0, 100, 1, 101, 2])
    for found in (alone, beside):
        (judged,) = found["claims"]
        assert (judged["verdict"], judged["mean"]) == ("holds", pytest.approx(1.0))
        assert judged["effects"] == {0: 1.0, 1: 1.1, 2: 0.9} and found["seeds"] == [0, 1, 2]
    assert beside["claims"][0]["calibration"] == {100: -1e6, 101: -1e6}
    only = result(calibration, [100, 101])
    assert only["claims"][0]["verdict"] == "undecided" and only["claims"][0]["mean"] is None
    assert "not judged: -1000000.000, -1000000.000" in results.text(only)


# Where results come from.


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """`git(*arguments)` in a repository of two files, which is taken for that of the package."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def git(*arguments):
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True)
        assert not done.returncode, done.stderr

    git("init", "--quiet")
    for name in ("claims.py", "other.py"):
        (tmp_path / name).write_text("")
        git("add", name)
        git("commit", "--quiet", "--message", name)
    return git


def test_a_commit_says_whether_files_differ_from_it(checkout, tmp_path):
    clean = provenance.commit()
    assert re.fullmatch("[0-9a-f]{10}", clean)
    (tmp_path / "notes.txt").write_text("not under version control")
    assert provenance.commit() == clean
    (tmp_path / "other.py").write_text("changed")
    assert provenance.commit() == f"{clean}+"


def test_the_last_change_is_that_of_the_files(checkout, tmp_path):
    claims, other = tmp_path / "claims.py", tmp_path / "other.py"
    first, second = provenance.last_change([claims]), provenance.last_change([other])
    assert second["commit"] == provenance.commit() != first["commit"]
    assert provenance.last_change([claims, other]) == second
    assert datetime.datetime.fromisoformat(first["date"]).tzinfo
    other.write_text("changed")
    assert provenance.last_change([claims]) == first and provenance.last_change([other]) is None


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None and provenance.last_change([tmp_path]) is None


# Runs. Most tests do them in their own process.


class Here:
    def __init__(self, threads, replicas):
        self.pipe, self._other = multiprocessing.Pipe()

    def begin(self, *run):
        self._other.send(execute._outcome(*run))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pipe.close()
        self._other.close()


@pytest.fixture
def do(tmp_path, monkeypatch):
    """`do(*tasks, seeds=...)` -> `(rows, failures, runs that began)`."""
    monkeypatch.setattr(execute, "_Worker", Here)
    diary = tmp_path / "diary.txt"

    def execute_tasks(*tasks, seeds=(1,)):
        diary.write_text("")
        done = execute.execute(runs(*tasks), seeds, tmp_path / "runs")
        assert done.seconds >= 0
        failures = {place.name: reason for place, reason in done.failures.items()}
        return done.rows, failures, diary.read_text().split()

    return execute_tasks


def test_a_run_is_done_once(do):
    rows, failures, begun = do(Fake(1.0), Fake(2.0), seeds=(1, 3))
    assert begun == ["run0-s1", "run1-s1", "run0-s3", "run1-s3"] and not failures
    assert rows == [
        {"run": f"run{i}", "seed": seed, "which": i, "result": (i + 1) * seed, "tries": 1}
        for seed in (1, 3)
        for i in (0, 1)
    ]
    assert do(Fake(1.0), Fake(2.0), seeds=(1, 3)) == (rows, {}, [])
    assert do(Fake(1.0), Fake(2.0), seeds=(3, 4))[2] == ["run0-s4", "run1-s4"]


def test_other_settings_are_another_run(do):
    do(Fake(1.0), Fake(2.0))
    rows, _, begun = do(Fake(1.0), Fake(3.0))
    assert begun == ["run1-s1"]
    assert [(row["result"], row["tries"]) for row in rows] == [(1, 1), (3, 1)], "began anew"


def test_other_measures_go_on_with_what_is_there(do):
    do(Fake(1.0), Fake(2.0))
    rows, _, begun = do(Fake(1.0), Fake(2.0, measures=(double,)))
    assert begun == ["run1-s1"]
    assert [(row["tries"], row.get("double")) for row in rows] == [(1, None), (2, 4)]


def test_a_run_that_fails_stops_no_other(do, tmp_path):
    rows, failures, begun = do(Fake(kind="fails"), Fake())
    assert begun == ["run0-s1", "run1-s1"]
    assert failures == {"run0-s1": "ZeroDivisionError: one by nothing"}
    assert "in fail\n" in (tmp_path / "runs" / "run0-s1" / "log.txt").read_text()
    # It has its place in the rows, where nothing else must be taken for it.
    failed = {"run": "run0", "seed": 1, "which": 0, "failed": failures["run0-s1"]}
    assert rows[0] == failed and rows[1]["result"] == 1
    assert rows.mean("result", which=min) is None
    assert do(Fake(kind="fails"), Fake())[2] == ["run0-s1"]
    (tmp_path / "healthy").touch()
    rows, failures, begun = do(Fake(kind="fails"), Fake())
    assert begun == ["run0-s1"] and not failures and [row["result"] for row in rows] == [1, 1]


def test_without_its_data_nothing_begins(do, tmp_path):
    with pytest.raises(ValueError, match="Unknown dataset 'nothing'"):
        do(Fake(), Fake(dataset="nothing"))
    assert not (tmp_path / "diary.txt").read_text()
    assert do(Fake(dataset="digits"))[2] == ["run0-s1"]


@pytest.mark.parametrize("name", ["rows.json", "task.json"])
def test_a_record_that_was_cut_off_is_no_record(do, tmp_path, name):
    do(Fake(), Fake())
    path = tmp_path / "runs" / "run0-s1" / name
    path.write_text(path.read_text()[:-5])
    rows, failures, begun = do(Fake(), Fake())
    assert begun == ["run0-s1"] and not failures and len(rows) == 2


def test_a_record_of_an_older_version_is_no_record(do, tmp_path):
    do(Fake(), Fake())
    path = tmp_path / "runs" / "run0-s1" / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text())["settings"]))
    rows, failures, begun = do(Fake(), Fake())
    assert begun == ["run0-s1"] and not failures and [row["tries"] for row in rows] == [1, 1]


def start(folder, *kinds):
    return child.start("-m", "tests.support.fake_task", folder, *kinds, stderr=subprocess.DEVNULL)


@pytest.mark.process
def test_told_to_end_and_gone_on_with(tmp_path):
    kinds = ("quick", "saves", "waits", "quick", "quick", "quick", "quick")
    process = start(tmp_path, *kinds)
    try:
        for _ in range(1200):
            if len(list(tmp_path.glob("runs/*/under way"))) == 2:
                break
            time.sleep(0.1)
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    begun, healthy = tmp_path / "diary.txt", tmp_path / "healthy"
    assert sorted(begun.read_text().split()) == ["run0-s1", "run1-s1", "run2-s1"], "nothing new"
    done = sorted(path.parent.name for path in tmp_path.glob("runs/*/rows.json"))
    assert done == ["run0-s1"]
    assert (tmp_path / "runs" / "run1-s1" / "saved.txt").read_text() == "told 1 time(s)"
    begun.write_text("")
    healthy.touch()
    out, _ = start(tmp_path, *kinds).communicate(timeout=120)
    assert out.splitlines()[-1] == "[0, 1, 2, 3, 4, 5, 6] []"
    assert sorted(begun.read_text().split()) == [f"run{i}-s1" for i in range(1, 7)]


@pytest.mark.process
@pytest.mark.slow
def test_a_process_that_dies_stops_no_other(tmp_path):
    out, _ = start(tmp_path, "quick", "dies", "fails", "quick", "quick").communicate(timeout=240)
    assert out.splitlines()[-1] == "[0, 3, 4] ['run1-s1', 'run2-s1']"


# Rows, tables and text.

ROWS = Rows(
    {"seed": seed, "norm": norm, "batch": batch, "error": error + seed / 10}
    for norm, batch, error in (("bn", 2, 0.5), ("bn", 8, 0.2), ("gn", 4, 0.3), ("gn", 8, 0.25))
    for seed in (0, 1)
)


def test_rows_are_chosen_by_factors():
    assert len(ROWS.where(norm="bn")) == 4 and not ROWS.where(norm="in")
    assert ROWS.where(batch=min) == ROWS.where(batch=2)
    assert ROWS.where(norm="gn").where(batch=min) == ROWS.where(norm="gn", batch=4)
    assert not ROWS.where(norm="gn", batch=min), "the least of all rows, not of those chosen"
    assert ROWS.where(seed=1, batch=max, norm="bn") == [ROWS[3]]
    assert Rows().where(batch=max) == [] and isinstance(ROWS.where(norm="bn"), Rows)
    assert ROWS.values("batch") == [2, 8, 4] and ROWS.values("nothing") == []


def test_means_and_gaps_pass_over_what_is_missing():
    rows = Rows([*ROWS, {"seed": 2, "norm": "bn", "batch": 2, "diverged": "yes"}])
    assert rows.mean_and_spread("error", norm="bn", batch=2) == pytest.approx((0.55, 0.005**0.5))
    assert ROWS.mean_and_spread("error", norm="bn", batch=2, seed=0) == (0.5, None)
    assert ROWS.mean_and_spread("loss") == (None, None) and ROWS.mean("loss") is None
    growth = gap("error", {"batch": min}, {"batch": max}, norm="bn")
    assert growth(ROWS) == pytest.approx(0.3)
    assert growth(ROWS.where(batch=8)) == 0 and growth(ROWS.where(norm="gn")) is None
    assert growth(rows.where(seed=2)) is None and growth(Rows()) is None
    broken = Rows([*ROWS, ROWS[0] | {"error": math.inf}])
    assert math.isnan(broken.mean("error")) and math.isnan(growth(broken))
    assert subtract(0, 1) == -1 and subtract(None, 1) is None and subtract(1, None) is None


def test_a_table_says_which_seeds_diverged():
    rows = [{"seed": 0, "norm": "bn", "error": 0.1}, {"seed": 1, "norm": "bn", "diverged": "loss"}]
    rows += [{"seed": seed, "norm": "gn", "diverged": "loss"} for seed in (0, 1)]
    rows += [{"seed": seed, "norm": "in", "error": 0.2} for seed in (0, 1)]
    table = results._table(Table("Errors", "error", "norm"), Rows(rows), [0, 1])
    expected = {"bn": ["10.0% (1 diverged)"], "gn": ["- (2 diverged)"], "in": ["20.0% ± 0.0%"]}
    assert table["cells"] == expected


def test_a_table_has_means_and_spreads():
    tables = (
        Table("Errors", "error", "norm", "batch"),
        Table("Of BN", "error", "batch", where={"norm": "bn"}, form="{:.2f}"),
        Table("At most", "error", "norm", where={"batch": max}, form="{:+.1f}"),
    )
    rows = Rows([*ROWS, *(row | {"seed": 100, "error": 99} for row in ROWS)])
    errors, bn, most = result(rows, [0, 1, 100], tables=tables)["tables"]
    assert errors["header"] == ["norm", "batch 2", "batch 8", "batch 4"]
    assert errors["cells"] == {
        "bn": ["55.0% ± 7.1%", "25.0% ± 7.1%", "-"],
        "gn": ["-", "30.0% ± 7.1%", "35.0% ± 7.1%"],
    }
    assert bn["header"] == ["batch", "error"]
    assert bn["cells"] == {"2": ["0.55 ± 0.07"], "8": ["0.25 ± 0.07"]}
    assert most["cells"] == {"bn": ["+0.2 ± 0.1"], "gn": ["+0.3 ± 0.1"]}
    (single, *_) = result(ROWS, [1], tables=tables)["tables"]
    assert single["cells"]["bn"] == ["60.0%", "30.0%", "-"]


def test_what_is_printed_holds_claims_verdicts_and_failures(tmp_path):
    claims = (
        claim(name="up", statement="It grows | falls", threshold=0.5, remark="By chance."),
        claim(name="far", statement="It grows far", threshold=5.0),
        claim(name="so", statement="It grows so", threshold=1.0, source="T"),
    )
    table = Table("Growth", "effect", "seed", form="{:.1f}")
    failures = {tmp_path / "run7-s0": "OSError: no disk"}
    rows = rows_of([1.0, 1.1, 0.9])
    found = result(rows, [0, 1, 2], failures, claims=claims, tables=(table,))
    lines = results.text(found).splitlines()
    for line, word in zip((2, 5, 7), ("HOLDS", "DOES NOT", "UNDECIDED"), strict=True):
        assert lines[line].strip().startswith(f"{word}  (")
    assert lines[2].endswith("(up) It grows | falls") and lines[4].strip() == "By chance."
    assert lines[3].strip() == "growth: +1.000 ± 0.100, n=3, holds above +0.500, p 0.026  [S]"
    assert "FAILED    run7-s0: OSError: no disk" in lines
    start = lines.index("Growth")
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["seed", "effect"],
        ["0", "1.0"],
    ]
    header, cells = results.claim_rows(found)
    written = markdown_table(header, cells).splitlines()
    assert len(written) == 5 and len({line.count("|") for line in written}) == 1
    for line, verdict, name in zip(
        written[2:], ("holds", "does not", "undecided"), ("up", "far", "so"), strict=True
    ):
        assert line.startswith(f"| ({name}) It grows") and line.endswith(f"| {verdict} |")


def test_written_results_are_json_even_without_numbers(tmp_path):
    """Other programs take no NaN for JSON."""
    found = result(rows_of([1.0, math.nan, math.inf]), [0, 1, 2])
    lines = results.write(tmp_path, found, study(), Rows())

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert read["claims"][0]["effects"] == {"0": 1.0, "1": None, "2": None}
    assert str(tmp_path / "result.json") in lines[-2] and "tensorboard --logdir" in lines[-1]


# Figures.

CURVES = Rows(
    row | {"curve": {1: 3.0, 2: row["error"], 3 + row["seed"]: 0.1}, "share": row["error"] / 2}
    for row in ROWS
)
MISSING = Rows([*CURVES, {"seed": 2, "norm": "bn", "batch": 2}, {"seed": 2, "norm": "in"}])


def labels(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def drawn(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png")
    return figure


def test_lines(tmp_path):
    look = {"log": "x", "percent": True, "labels": ("samples", "error")}
    chart = figures.Lines("A caption.", "batch", "error", by="norm", **look)
    figure = drawn(chart.draw(MISSING), tmp_path)
    (axis,) = figure.axes
    assert labels(figure) == ["bn", "gn"]
    assert len(axis.containers) == 2, "with bars"
    bn, gn = (container.lines[0] for container in axis.containers)
    assert list(bn.get_xdata()) == [2, 8] and list(bn.get_ydata()) == pytest.approx([0.55, 0.25])
    assert list(gn.get_xdata()) == [4, 8]
    assert bn.get_color() != gn.get_color()
    assert {"2", "4", "8"} <= {text.get_text() for text in axis.get_xticklabels()}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("samples", "error")
    panels = dataclasses.replace(chart, by="seed", panels="norm").draw(ROWS)
    assert [axis.get_title() for axis in panels.axes] == ["bn", "gn"]
    assert all(len(axis.containers) == 2 for axis in panels.axes)


def test_a_norm_looks_alike_everywhere():
    plain, first, other = figures.style("gn", 7), figures.style("gn(groups=5)"), figures.style("ln")
    assert plain == figures.style("gn") and first == plain | {"ls": "--"}
    assert not set(plain.values()) & {other["color"], other["marker"]}
    assert figures.style("a style", 0) != figures.style("another", 1)


def test_curves(tmp_path):
    look = {"by": "norm", "labels": ("epoch", "loss"), "log": "y"}
    chart = figures.Curves("A caption.", lambda row: row.get("curve"), panels="batch", **look)
    figure = drawn(chart.draw(MISSING), tmp_path)
    assert [axis.get_title() for axis in figure.axes] == ["batch: 2", "batch: 8", "batch: 4"]
    assert [len(axis.lines) for axis in figure.axes] == [1, 2, 1]
    assert [len(axis.collections) for axis in figure.axes] == [1, 2, 1], "bands of several seeds"
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [1, 2], "what all seeds have"
    assert list(line.get_ydata()) == pytest.approx([3, 0.55])
    assert sorted(labels(figure)) == ["bn", "gn"]
    alone = chart.draw(CURVES.where(seed=0, batch=8))
    assert len(alone.axes) == 1 and not alone.axes[0].collections
    truth = dataclasses.replace(chart, panels="shift")
    figure = truth.draw(Rows(row | {"shift": row["seed"] > 0} for row in CURVES))
    assert [axis.get_title() for axis in figure.axes] == ["shift: False", "shift: True"]


def test_scatter(tmp_path):
    look = {"by": "norm", "labels": ("share", "error"), "where": {"batch": 8}}
    chart = figures.Scatter("A caption.", "share", "error", **look)
    figure = drawn(chart.draw(MISSING), tmp_path)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["bn", "gn"]
    assert [text.xy for text in axis.texts] == [
        pytest.approx((0.125, 0.25)),
        pytest.approx((0.15, 0.3)),
    ]


def test_shares(tmp_path):
    panels = {
        "paper": {"32": {"batch": 0.7, "layer": 0.25, "instance": 0.05}, "2": {"layer": 1.0}},
        "ours": {"8": {"batch": 0.5, "instance": 0.5}},
        "odd": {"1": {"instance": 1.0}},
    }
    figure = drawn(Shares("A caption.", lambda rows: panels).draw(Rows()), tmp_path)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown] == list(panels)
    assert [len(axis.patches) for axis in shown] == [4, 2, 1], "each part of each bar"
    assert len(labels(figure)) == 3
    heights = collections.defaultdict(float)
    for bar in shown[0].patches:
        heights[round(bar.get_x() + bar.get_width() / 2)] += bar.get_height()
    assert heights == pytest.approx({0: 1, 1: 1})
    assert {text.get_text() for text in shown[0].texts} == {".70", ".25", "1.00"}


def test_shares_of_several_seeds_have_whiskers(tmp_path):
    bars = {"2": {"layer": [0.5, 0.7, 0.6], "batch": [0.5, 0.3, 0.4]}}
    figure = drawn(Shares("", lambda rows: {"ours": bars}).draw(Rows()), tmp_path)
    axis = figure.axes[0]
    layer, batch = (container.lines[2][0].get_segments()[0] for container in axis.containers[1::2])
    assert layer[:, 1] == pytest.approx([0.3 - 0.1, 0.3 + 0.1])  # in the middle of its part
    assert batch[:, 1] == pytest.approx([0.8 - 0.1, 0.8 + 0.1])


def test_paths_end_at_the_corner_that_is_chosen(tmp_path):
    third = {"instance": 1 / 3, "layer": 1 / 3, "batch": 1 / 3}
    alone = {s: {t: float(s == t) for t in third} for s in third}
    panel = {"stem": [[third, alone["layer"]]], "stage1": [[third, alone["batch"]]]}
    figure = drawn(Simplex("", lambda rows: {"2 samples": panel}).draw(Rows()), tmp_path)
    ends = [line.get_xydata()[-1] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert ends[0] == pytest.approx([1, 0]) and ends[1] == pytest.approx([0.5, 0.75**0.5])
    assert labels(figure) == ["stem", "stage1"]


@pytest.mark.parametrize(
    "chart",
    [
        figures.Lines("", "batch", "error", by="norm", labels=("", "")),
        figures.Curves("", lambda row: row["curve"], by="norm", labels=("", "")),
        figures.Scatter("", "share", "error", by="norm", labels=("", "")),
        Shares("", lambda rows: {}),
        Simplex("", lambda rows: {}),
    ],
)
def test_nothing_to_draw(chart):
    assert chart.draw(Rows()) is None


# The studies themselves.

PLANS = [(name, scale) for name, study in STUDIES.items() for scale in study.scales]


def plan(name, scale):
    return STUDIES[name].plan(**STUDIES[name].scales[scale].settings)


def host(task, dataset):
    """The key of `zoo.norms.MODELS` of a task's model."""
    kinds = {"resnet": "resnet", "conv": "convnet", "lstm": "lstm", "mlp": "mlp"}
    kinds["transformer"] = (
        "transformer" if dataset in ("digits", "imdb_reviews") else ("causal_transformer")
    )
    (kind,) = {kind for start, kind in kinds.items() if task.model.startswith(start)}
    return kind


@pytest.mark.parametrize("name, scale", PLANS)
def test_a_plan_can_be_run(name, scale):
    planned = plan(name, scale)
    assert planned and len({run.name for run in planned}) == len(planned)
    kinds = collections.defaultdict(set)
    for run in planned:
        kinds[type(run.task)].add(frozenset(run.factors))
    assert all(len(factors) == 1 for factors in kinds.values())
    assert len({str(dict(run.factors)) for run in planned}) == len(planned)
    for run in planned:
        settings = execute.describe(run.task)
        assert json.loads(json.dumps(settings)) == settings, "or it would never be done"
        assert pickle.loads(pickle.dumps(run.task)) == run.task
        json.dumps(dict(run.factors))
        task = getattr(run.task, "options", run.task)
        if task is not run.task:
            options.check(task)
            catalog.select_model(task)
        if hasattr(task, "model"):
            assert task.model in catalog.entries()
            for norm in getattr(task, "norms", None) or [task.norm]:
                zoo.norms.norm_for(host(task, getattr(task, "dataset", "digits")), norm)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_complete(name):
    study = STUDIES[name]
    assert set(study.scales) == set(SCALES)
    assert study.question.endswith("?")
    names = [(claim.name, claim.case) for claim in study.claims]
    assert names and len(set(names)) == len(names)
    for claim in study.claims:
        assert claim.statement and claim.source and claim.measured
        assert claim.form.format(claim.threshold)
        assert claim.effect(Rows(), *[Rows()] * claim.across_seeds) is None
        assert claim.learnt is None or claim.learnt.measure(Rows()) is None
        assert claim.published is None or claim.published > claim.threshold, "the paper's own"
    for scale in study.scales.values():
        assert not set(scale.seeds) & set(study.calibration)
        assert len(set(scale.seeds)) == len(scale.seeds) > 1
    for figure in study.figures.values():
        assert figure.caption and figure.draw(Rows()) is None


class Anything(dict):
    """A row that has every measure."""

    def __contains__(self, measure):
        return True

    def __missing__(self, measure):
        return 0.25

    def get(self, measure, default=None):
        return self[measure]


def full_rows(name, scale):
    """Rows as the runs of a study would leave them, of one seed, all measures alike."""
    shares = {"instance": 0.25, "layer": 0.25, "batch": 0.5}
    layers = ("stem_norm", *(f"stage{stage}_block1_norm1" for stage in (1, 2, 3, 4)))
    importance = {layer: {"mean": shares, "variance": shares} for layer in layers}
    curves = collections.defaultdict(lambda: [1 / 2**i for i in range(20)])
    dynamics = {str(i): importance for i in (0, 5)}
    found = Rows()
    measures = {"curves": curves, "importance": importance, "dynamics": dynamics}
    measures["diverged_at"] = None
    for run in plan(name, scale):
        facts = {"run": run.name, "seed": 0, **run.factors}
        if isinstance(run.task, cost.LayerParameters):
            found += [facts | row for row in run.task.rows(0, None, None)]
        elif isinstance(run.task, cost.Profile):
            found += [Anything(facts | {"norm": norm}) for norm in run.task.norms]
        else:
            found.append(Anything(facts | measures))
    return found


@pytest.mark.parametrize("name, scale", [plan for plan in PLANS if plan[1] != "smoke"])
def test_a_plan_has_all_that_the_claims_need(name, scale):
    rows = full_rows(name, scale)
    for claim in STUDIES[name].claims if SCALES[scale] else ():
        effect = claim.effect(rows, *[rows] * claim.across_seeds)
        learnt = claim.learnt.measure(rows) if claim.learnt else 0.0
        for value in (effect, learnt):
            assert value is not None and math.isfinite(value), (claim.name, claim.case)
    for table in STUDIES[name].tables:
        chosen = rows.where(**table.where)
        factors = {table.rows, table.columns} - {None}
        assert any(factors <= row.keys() for row in chosen), table.title


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("mark", ["diverged", "failed"])
def test_runs_that_gave_nothing_spoil_no_result(tmp_path, name, mark):
    """None of all runs, and any one of them."""
    study = STUDIES[name]
    seeds = range(len(plan(name, "cpu")) + 1)
    rows = Rows()
    for seed, left_out in zip(seeds, [None, *plan(name, "cpu")], strict=True):
        for run in plan(name, "cpu"):
            if left_out in (None, run):
                rows.append({"run": run.name, "seed": seed, **run.factors, mark: "why"})
    done = execute.Executed(rows, 0.0, {}, None, [])
    found = results.result(name, study, "cpu", list(seeds), "", done, 1)
    for claim in found["claims"]:
        expected = "not tested" if claim["learnt"] else "undecided"
        assert (claim["verdict"], claim["mean"]) == (expected, None), claim["name"]
    results.text(found)
    results.write(tmp_path, found, study, rows)


DOCUMENT = Path(__file__).parents[2] / "docs" / "STUDIES.md"
# The statements of the articles that a study has to decide.
CITED = {
    (2, "batch_size"),
    (3, "distributed"),
    (4, "sequence"),
    (5, "weight_norm"),
    (6, "batch_size"),
    (8, "sequence"),
    (8, "batch_size"),
    (9, "style"),
    (10, "batch_size"),
    (11, "style"),
    (12, "batch_size"),
    (13, "preferences"),
    (14, "smoothness"),
    (15, "synthetic"),
    (16, "cost"),
}


def cited(claim):
    """The numbers behind "ARTICLES" in the source of a claim."""
    found = re.search(r"ARTICLES ([\d, and]+)", claim.source)
    return set(map(int, re.findall(r"\d+", found[1]))) if found else set()


@pytest.mark.parametrize("number, name", sorted(CITED))
def test_every_statement_of_the_articles_is_a_claim(number, name):
    assert name in STUDIES
    assert any(number in cited(claim) for claim in STUDIES[name].claims)
    (line,) = re.findall(rf"^\| {number} \|.*", DOCUMENT.read_text(), re.MULTILINE)
    assert f"`{name}`" in line
