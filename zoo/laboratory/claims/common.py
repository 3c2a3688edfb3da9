"""What the claims of several studies are made of."""

from collections.abc import Iterable, Sequence
from typing import Any

from zoo.laboratory.study import Claim, Effect, Number, Rows

PERCENT = "{:+.1%}"
PROPERTY = "This is a property, not a finding."


def least(measure: str, norms: Sequence[str], **where: Any) -> Effect:
    """The least value of a measure with any of some norms; None if one of them is missing."""

    def effect(rows: Rows) -> Number:
        values = [rows.mean(measure, norm=norm, **where) for norm in norms]
        known = [value for value in values if value is not None]
        return min(known) if len(known) == len(norms) else None

    return effect


def best(measure: str, norms: Sequence[str], **where: Any) -> Effect:
    """The greatest value of a measure with any of some norms; None if all are missing."""

    def effect(rows: Rows) -> Number:
        values = [rows.mean(measure, norm=norm, **where) for norm in norms]
        return max((value for value in values if value is not None), default=None)

    return effect


def consistent(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims without those whose criterion the published numbers fail.

    Such a criterion is not the paper's claim.
    """
    return tuple(c for c in claims if c.published is None or c.published > c.threshold)
