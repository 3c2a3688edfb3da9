"""What fits into the time, by a clock that is made."""

import math

import pytest

from keras_norms.selection.plan import Budget, OutOfTime, Run, Seconds, make_plan

NORMS, SIZES = ["bn", "gn"], [32, 8]
SECONDS = Seconds(
    {(norm, size): 0.1 for norm in NORMS for size in SIZES} | {("sn", 32): 0.1},
    {"bn": 1.0, "gn": 1.0, "sn": 1.0},
)


def plan(
    seeds=3,
    steps=None,
    left=1000.0,
    switches=None,
    ghost=False,
    seconds=SECONDS,
    done=lambda run: False,
):
    return make_plan(NORMS, SIZES, seeds, steps, ghost, seconds, left, switches, done)


def test_a_budget_ends():
    now = [0.0]
    budget = Budget(2, lambda: now[0])
    now[0] = 119.0
    budget.check()
    assert budget.left == 1.0
    now[0] = 120.0
    with pytest.raises(OutOfTime):
        budget.check()
    assert Budget(None).left == math.inf


def test_steps_fill_the_time():
    found = plan()
    assert found.seeds == 3 and 0.85 * 1000 < found.seconds < 0.95 * 1000
    # Of 0.1 s each: per seed 2 norms, steps at 32, and 4 times as many at 8.
    assert abs(found.steps - (1000 / 1.1 - 12) / 3) < 2
    assert plan(ghost=True).steps > 2 * found.steps


def test_seeds_give_way_where_steps_cannot():
    assert plan(left=40).seeds == 1 and plan(left=40).steps >= 16
    slow = SECONDS._replace(fixed=dict.fromkeys(NORMS, 20.0))
    seeds = [plan(left=left, seconds=slow).seeds for left in (600, 450)]
    assert seeds == [3, 2]  # at least half of the time is for training
    assert plan(steps=100, left=250).seeds == 2
    assert plan(steps=100, left=10).seeds == 1  # and it is stopped
    with pytest.raises(ValueError, match="does not suffice.* minutes more"):
        plan(left=5)
    with pytest.raises(ValueError, match="`steps`, `minutes`, or both"):
        plan(left=math.inf)


def test_runs_go_seed_by_seed_and_the_reference_first():
    runs = plan(seeds=2, steps=10, left=math.inf, switches=Run("sn", 32, 0, True)).runs
    assert [run[:3] for run in runs[:6]] == [
        ("bn", 32, 0),
        ("gn", 32, 0),
        ("bn", 8, 0),
        ("gn", 8, 0),
        ("sn", 32, 0),
        ("bn", 32, 1),
    ]


def test_what_is_done_takes_no_time():
    assert plan(steps=100, done=lambda run: run.seed == 0).seconds == pytest.approx(
        plan(steps=100).seconds * 2 / 3
    )
