"""Checks of constructor arguments, and how arguments are written into a config."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import keras

# What Keras accepts for these arguments: a name, a config, or an object.
Initializer = str | Mapping | Callable
Regularizer = str | Mapping | Callable | None
Constraint = str | Mapping | Callable | None


def is_integer(value: Any) -> bool:
    """Whether a value is an integer. A bool is not: as an axis or a count it is a mistake."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def integer(name: str, value: Any) -> int:
    """`value` as an int.

    Args:
        name: the argument, for the error message.
        value: what the user gave for it.

    Raises:
        ValueError: if `value` is not an integer.
    """
    if not is_integer(value):
        raise ValueError(f"`{name}` must be an int. Received: {name}={value!r}")
    return operator.index(value)


def positive(name: str, value: Any) -> int:
    """`value` as a positive int.

    Args:
        name: the argument, for the error message.
        value: what the user gave for it.

    Raises:
        ValueError: if `value` is not a positive integer.
    """
    if not is_integer(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive int. Received: {name}={value!r}")
    return operator.index(value)


def number(name: str, value: Any) -> float:
    """`value` as a float.

    Args:
        name: the argument, for the error message.
        value: what the user gave for it.

    Raises:
        ValueError: if `value` is not a number.
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}") from error


def share(name: str, value: Any) -> float:
    """`value` as a float in [0, 1].

    Raises:
        ValueError: if it is no such number.
    """
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1]. Received: {name}={value}")
    return float(value)


def initializer(name: str, value: Any) -> Callable:
    """The initializer that `value` names.

    Args:
        name: the argument, for the error message.
        value: what the user gave for it.

    Raises:
        ValueError: if `value` is None. Keras would draw such weights at random, as it does
            kernels.
    """
    if value is None:
        raise ValueError(f"`{name}` must be an initializer. Received: {name}=None")
    return keras.initializers.get(value)


def serialize(value: Any) -> Any:
    """`value` in the form in which a config holds it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return list(value) if isinstance(value, tuple) else keras.saving.serialize_keras_object(value)
