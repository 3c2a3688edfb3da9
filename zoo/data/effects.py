"""An option that has no effect is an error: for data here, for models and norms in training."""

from collections.abc import Collection, Mapping
from typing import Any


def refuse_unused(options: Mapping[str, Any], effective: Collection[str], choice: str) -> None:
    """Raises a ValueError for an option that is set and has no effect.

    If it were ignored, two equal runs would look different.

    Args:
        options: `{name: value}`, where None means that an option is not set.
        effective: the names of the options that have an effect.
        choice: what decides that, as in "model='mlp'".

    >>> refuse_unused({"depth": None, "dropout": 0.1}, {"dropout"}, "model='lstm'")
    """
    for name, value in options.items():
        if value is not None and name not in effective:
            raise ValueError(f"{name} has no effect on {choice}.")
