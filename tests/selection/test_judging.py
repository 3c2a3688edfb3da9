"""The judge of comparisons, and what is said, on results that are made."""

import itertools
import re

import pytest

from keras_norms import ComparedNorms
from keras_norms.selection import judging, words
from keras_norms.selection.judging import rank
from keras_norms.selection.report import document
from tests.selection.made import ALIKE, CLEAR, facts, run

SWITCHES = {
    f"norm{i}": {kind: {"instance": 0.2, "batch": 0.8} for kind in ("mean", "variance")}
    for i in range(3)
}


def verdicts(made, size=32):
    return {place.norm: place.verdict for place in rank(made, size).places}


def test_a_clear_order():
    ranking = rank(facts(CLEAR), 32)
    assert [(place.norm, place.verdict) for place in ranking.places] == [
        ("gn", judging.BEST),
        ("bn", judging.WORSE),
        ("wn", judging.WORSE),
    ]
    low, high = ranking.place("gn").estimate.interval
    assert low < 0.9036 < high and high - low < 0.03
    assert ranking.place("bn").behind.mean == pytest.approx(0.1, abs=2e-3)


def test_what_is_not_told_apart():
    assert set(verdicts(facts(ALIKE)).values()) == {judging.OPEN}
    third = {32: ALIKE[32] | {"wn": [0.60, 0.61, 0.59]}}
    # By seed, the third is clearly behind only where seeds do not disturb.
    third[32]["bn"] = [0.802, 0.81, 0.80]
    third[32]["gn"] = [0.81, 0.80, 0.80]
    found = verdicts(facts(third))
    assert found == {"bn": judging.AMONG, "gn": judging.AMONG, "wn": judging.WORSE}


def test_differences_are_taken_by_seed():
    """Seeds move all norms alike by 10 points, and the norms differ by 1 on each."""
    seeds = (0.6, 0.7, 0.8)
    made = {
        32: {"bn": [s + 0.01 for s in seeds], "gn": [s + 1e-5 * i for i, s in enumerate(seeds)]}
    }
    assert verdicts(facts(made)) == {"bn": judging.BEST, "gn": judging.WORSE}


def test_comparisons_of_many_norms_are_corrected():
    differences = [0.05, 0.06, 0.08]
    two = {32: {"bn": [0.8] * 3, "gn": [0.8 - d for d in differences]}}
    assert verdicts(facts(two))["gn"] == judging.WORSE
    many = {32: two[32] | {f"n{i}": [0.8 - i / 100, 0.79, 0.8 + i / 100] for i in range(6)}}
    assert verdicts(facts(many))["gn"] != judging.WORSE


def test_where_nothing_is_said():
    few = {32: {norm: values[:2] for norm, values in CLEAR[32].items()}}
    assert set(verdicts(facts(few)).values()) == {judging.FEW}
    poor = facts({32: {"bn": [0.52, 0.51, 0.53], "gn": [0.9, 0.91, 0.9]}})
    assert set(verdicts(poor).values()) == {judging.NOTHING}
    said = words.answers(poor)[words.TASK]
    assert "Nothing can be concluded" in said and "52.0 %" in said
    assert "About 200 steps" in said or "about 200 steps" in said  # its loss still falls fast
    sentence, code = words.advice(poor)
    assert "200 steps" in sentence and not code


def test_norms_that_fail_or_do_not_learn():
    made = facts({32: {"bn": [0.8, 0.81, 0.8], "in": [0.5, 0.5, 0.5]}})
    made["norms"] = ["bn", "in", "gn"]
    made["costs"]["gn"] = made["costs"]["in"]
    made["runs"] += [run("gn", 32, seed, 0.0, failed="the loss was NaN") for seed in range(3)]
    found = verdicts(made)
    assert found == {"bn": judging.BEST, "in": judging.NOT_LEARNT, "gn": judging.FAILED}
    said = words.answers(made)[words.TASK]
    assert "in did no better than the best constant prediction" in said
    assert "3 of 3 runs with gn failed" in said
    assert "the loss was NaN" in document(made, {})


def test_norms_of_which_some_runs_fail_come_last():
    """However good the others are; and they do not keep the rest from verdicts."""
    made = facts({32: {"bn": [0.8, 0.81, 0.8, 0.8], "in": [0.7, 0.7, 0.71, 0.7], "gn": [0.9]}})
    made["runs"] += [run("gn", 32, seed, 0.0, failed="the loss was NaN") for seed in (1, 2, 3)]
    assert verdicts(made) == {"bn": judging.BEST, "in": judging.WORSE, "gn": judging.FAILED}
    assert "3 of 4 runs with gn failed" in words.answers(made)[words.TASK]
    assert words.advice(made)[0].startswith("bn is the best here")
    made["runs"][-1] |= {"failed": None, "curve": run("gn", 32, 3, 0.9)["curve"]}
    made["runs"][-1]["curve"][-1]["accuracy"] = None  # no number, though the loss is one
    assert verdicts(made)["gn"] == judging.FAILED and document(made, {})


def test_norms_that_have_not_learnt_are_not_advised():
    made = facts({32: {"bn": [0.8, 0.81, 0.8], "sn": [0.99, 0.99, 0.55]}})
    assert list(verdicts(made)) == ["bn", "sn"] and verdicts(made)["sn"] == judging.NOT_LEARNT
    assert '"bn"' in words.advice(made)[1]


def test_a_norm_that_leads_on_every_common_seed_is_not_worse():
    """The time was over, and one norm has a seed more."""
    made = facts({32: {"bn": [0.7, 0.701, 0.7, 0.95], "gn": [0.72, 0.722, 0.721]}})
    assert list(verdicts(made)) == ["gn", "bn"] and verdicts(made)["bn"] == judging.WORSE


def test_how_often_equal_norms_are_told_apart(rng):
    wrong = {2: 0, 8: 0}
    for count, _ in itertools.product(wrong, range(300)):
        values = {f"n{i}": list(0.8 + 0.02 * rng.standard_normal(5)) for i in range(count)}
        wrong[count] += judging.WORSE in verdicts(facts({32: values})).values()
    assert wrong[2] < 0.15 * 300 and wrong[8] < 0.25 * 300


def test_without_a_constant_and_a_reference(tmp_path):
    made = facts({32: {"bn": [], "gn": [0.8, 0.81, 0.8]}}, baseline=None)
    made["runs"] += [run("bn", 32, seed, 0.0, failed="out of memory") for seed in range(3)]
    result = ComparedNorms(made)
    result.write(tmp_path)
    assert "Nothing can be concluded" in result.answers[words.TASK]


def test_where_no_run_is_complete(tmp_path):
    result = ComparedNorms(facts({32: {"bn": [], "gn": []}, 4: {"bn": [], "gn": []}}, missing=4))
    result.write(tmp_path)
    assert "No run is complete" in (tmp_path / "report.html").read_text()
    assert "No run is complete" in result.answers[words.TASK]


def test_a_smaller_metric_may_be_better():
    made = facts(CLEAR, monitor="loss", higher=False)
    for each in made["runs"]:
        for point in each["curve"]:
            point["loss"] = 1 - point["accuracy"]
    made["baseline"] = {"what": "the best constant prediction", "value": 0.69}
    assert next(iter(verdicts(made))) == "gn" and verdicts(made)["gn"] == judging.BEST


def test_answers_follow_the_numbers():
    made = facts(CLEAR, replicas={"bn": 0.05, "gn": 1e-6, "wn": None}, switches=SWITCHES)
    made["costs"]["bn"]["folded"] = {"ms": 2.5, "ratio": 0.7, "low": 0.6, "high": 0.8}
    answers = words.answers(made)
    assert answers[words.TASK].startswith(
        "With batches of 32, gn has the best mean accuracy: 90.4 %"
    )
    assert "bn by 10.0 points and wn by 20.0 points" in answers[words.TASK]
    assert "From batches of 32 to 4, bn loses 20.0 points." in answers[words.BATCH]
    assert "No clear change for gn and wn." in answers[words.BATCH]
    assert "At 4, gn is the best." in answers[words.BATCH]
    assert "gn is the best, and bn the fastest." in answers[words.TRADE]
    assert "bn 0.75" in answers[words.TRADE]  # folded, of its inference
    assert "bn by 5.0 %" in answers[words.REPLICAS] and "with gn" in answers[words.REPLICAS]
    assert "0.80" in words.switches(made)
    sentence, code = words.advice(made)
    assert sentence == "gn is the best here." and 'to="gn"' in code


def test_moving_statistics_that_lag_are_named():
    made = facts(CLEAR)
    for each in made["runs"]:
        if each["norm"] == "bn":
            each["recalibrated"] = {"loss": 0.1, "accuracy": 0.95}
    assert "recalibrate` takes bn to 95.0 %" in words.answers(made)[words.TASK]
    sentence, code = words.advice(made)
    assert sentence.endswith("Recalibrated, bn would be ahead of gn.") and not code


@pytest.mark.parametrize(
    "made",
    [
        facts(CLEAR, switches=SWITCHES, replicas={"bn": 0.05, "gn": 1e-6, "wn": None}),
        facts(CLEAR, ghost=True),
        facts(ALIKE),
        facts({32: {"bn": [0.5, 0.5, 0.5], "gn": [0.9, 0.9, 0.9]}}),
        facts({32: {"bn": [0.9], "gn": [0.8]}}),
    ],
    ids=["clear", "ghost", "alike", "nothing", "one seed"],
)
def test_sentences_are_short(made):
    said = [*words.answers(made).values(), words.switches(made), words.advice(made)[0]]
    for sentence in re.split(r"(?<=[a-z%`)0-9]\.) ", " ".join(said)):
        assert len(sentence.split()) <= 25, sentence
