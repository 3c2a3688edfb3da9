"""The criteria of claims: what they measure, on rows that are made up or published."""

import pytest

from zoo.laboratory.claims import batch_size, common, sequence, style, synthetic, weight_norm
from zoo.laboratory.judge import judge
from zoo.laboratory.study import Claim, Rows


def of(claims, name, case=""):
    (found,) = (claim for claim in claims if (claim.name, claim.case) == (name, case))
    return found


def test_a_criterion_that_the_published_numbers_fail_is_left_out():
    claims = [
        Claim(name, "It grows", "S", lambda rows: None, "growth", 0.1, published=published)
        for name, published in (("a", None), ("b", 0.2), ("c", 0.1), ("d", -0.2))
    ]
    assert [claim.name for claim in common.consistent(claims)] == ["a", "b"]
    # The paper's BN loses 1.2 points from batch 32 to 8, which is less than what matters.
    assert {claim.case for claim in batch_size.CLAIMS if claim.name == "a"} == {
        "batch 4",
        "batch 2",
    }


def test_an_error_that_falls_depends_on_the_batch_size_too():
    steady = of(batch_size.CLAIMS, "b").effect
    errors = {32: 0.30, 8: 0.29, 4: 0.28, 2: 0.26}
    rows = [{"norm": "gn", "batch": batch, "error": error} for batch, error in errors.items()]
    assert steady(Rows(rows)) == pytest.approx(0.02 - 0.04)
    assert steady(Rows(rows[:-1])) is None


def test_the_least_needs_every_net_and_the_best_any():
    rows = Rows([{"norm": "bn", "accuracy": 0.7}, {"norm": "gn", "accuracy": 0.6}])
    for norms, least, best in (
        (("bn", "gn"), 0.6, 0.7),
        (("bn", "ln"), None, 0.7),
        (("ln",), None, None),
    ):
        assert common.least("accuracy", norms)(rows) == least
        assert common.best("accuracy", norms)(rows) == best


@pytest.mark.parametrize("accuracy, verdict", [(0.61, "holds"), (0.59, "not tested")])
def test_nets_that_have_not_learnt_test_nothing(accuracy, verdict):
    claim = of(weight_norm.CLAIMS, "a", "beside BN")
    rows = Rows(
        {"seed": seed, "norm": norm, "accuracy": accuracy + more, "error": 1 - accuracy - more}
        for seed in range(3)
        for norm, more in (("bn", 0), ("wn_mobn", 0.1))
    )
    assert judge([claim], rows, range(3))[0]["verdict"] == verdict


def test_a_text_is_learnt_where_bits_are_saved():
    learnt = of(sequence.CLAIMS, "a", "text").learnt
    rows = [
        {"data": "tiny_shakespeare", "model": "LSTM", "norm": norm, "bits_per_character": bits}
        for norm, bits in (("ln", 3.0), ("bn", 3.5))
    ]
    assert learnt.measure(Rows(rows)) == pytest.approx(1.83)
    assert learnt.met(learnt.measure(Rows(rows))) and not learnt.met(learnt.measure(Rows(rows[1:])))


def test_instance_norm_has_to_learn_before_it_can_be_called_blind():
    (learnt,) = {claim.learnt.statement for claim in style.CLAIMS if claim.name == "b"}
    assert learnt == "where style is absent, at least 50% of the test images are classified by in"


def test_falling_fast_and_alike():
    curves = {"bn": [1.0, 0.2, 0.1, 0.1, 0.0], "ln": [1.0, 0.5, 0.4, 0.3, 0.2]}
    curves[synthetic.GN] = [1.0, 0.6, 0.4, 0.3, 0.2]
    rows = Rows({"norm": n, "batch": 64, "curves": {"loss": c}} for n, c in curves.items())
    assert synthetic.early_fall("bn")(rows) == pytest.approx(0.8)
    assert synthetic.early_fall("ln")(rows) == pytest.approx(0.5 / 0.8)
    assert synthetic.likeness(rows) == pytest.approx(0.05 - 0.02)
    assert synthetic.closeness(rows) == pytest.approx(0.1 - 0.2)
