"""What a step costs: its time, compared with others, and its memory."""

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np

Name = TypeVar("Name", bound=Hashable)
Step = Callable[..., Any]  # a function of arrays that returns an array or several


class Cost(NamedTuple):
    """The time of a step, and its ratio to the time of another step, the base.

    Attributes:
        first: seconds of the first call, which compiles.
        ms: milliseconds of a later call, the median over rounds.
        ratio: the median over rounds of the ratio within a round.
        low: the lower quartile of that ratio.
        high: the upper quartile of that ratio.
    """

    first: float
    ms: float
    ratio: float
    low: float
    high: float


def compare_times(
    steps: Mapping[Name, Step],
    inputs: Sequence[Any],
    base: Name,
    rounds: int,
    repeats: int = 1,
    verbose: bool = True,
) -> dict[Name, Cost]:
    """Times steps in turn within each round, so that a noisy machine disturbs all alike.

    Args:
        steps: `{name: function of the inputs}`; each returns an array or several.
        inputs: what every step gets.
        base: the name of the step to compare all with.
        rounds: how many times every step is timed.
        repeats: calls in one timing.
        verbose: whether to show the progress.

    Returns:
        `{name: Cost}`.
    """

    def seconds(step: Step, repeats: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            result = step(*inputs)
        _wait_for(result)
        return (time.perf_counter() - start) / repeats

    first = {name: seconds(step) for name, step in steps.items()}
    for step in steps.values():
        seconds(step)  # not counted: a second call is not yet as fast as later ones
    progress = keras.utils.Progbar(rounds, verbose=int(verbose), unit_name="round")
    measured: dict[Name, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            measured[name].append(seconds(step, repeats))
        with contextlib.redirect_stdout(sys.stderr):
            progress.add(1)
    times = {name: np.array(values) for name, values in measured.items()}
    return {
        name: Cost(
            first[name],
            1e3 * float(np.median(own)),
            *map(float, np.percentile(own / times[base], [50, 25, 75])),
        )
        for name, own in times.items()
    }


def peak_of(step: Callable[[], Any]) -> int | None:
    """Bytes by which a call raises the resident memory of this process at its peak.

    Call the step once before: what it allocates for good is not counted then.

    Returns:
        The bytes, or None where they cannot be measured (only Linux tells them).
    """
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # else the step reuses what was freed before
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # sets the peak to what is resident now
        before = _resident_bytes("VmRSS")
        step()
        return max(0, _resident_bytes("VmHWM") - before)
    except OSError:
        return None


def _wait_for(result: Any) -> None:
    """Waits until a computation has ended, by reading one element of its result."""
    first = keras.tree.flatten(result)[0]
    np.asarray(first[(0,) * len(first.shape)] if hasattr(first, "shape") else first)


def _resident_bytes(field: str) -> int:
    """Resident memory of this process: "VmRSS" is that of now, "VmHWM" the peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])
