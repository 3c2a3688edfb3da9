"""The error for an option that has no effect on the data, the model or the norm."""

from collections.abc import Mapping
from typing import Any


def refuse_unused(options: Mapping[str, Any], effects: Mapping[str, bool], choice: str) -> None:
    """Raises a ValueError for an option that is set and has no effect.

    If it were ignored, two equal runs would look like different ones.

    Args:
        options: `{name: value}`, where None means that an option is not set.
        effects: `{name: whether the option has an effect}`, of the options that may have none.
        choice: what decides about the effect, as in "model='mlp'".

    Raises:
        ValueError: if an option is set and has no effect.

    >>> refuse_unused({"depth": None, "width": 2.0}, {"depth": False}, "model='mlp'")
    >>> refuse_unused({"depth": 3, "width": 2.0}, {"depth": False}, "model='mlp'")
    Traceback (most recent call last):
    ValueError: depth has no effect on model='mlp'.
    """
    for name, effective in effects.items():
        if options[name] is not None and not effective:
            raise ValueError(f"{name} has no effect on {choice}.")
