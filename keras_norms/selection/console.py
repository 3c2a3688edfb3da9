"""What a comparison prints while it runs."""

import contextlib
import logging
from collections.abc import Callable, Iterator

from keras_norms.optional import require


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TensorFlow warns where functions are traced often: here they are those of many models."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Console:
    """Lines and a bar in a terminal, or nothing."""

    def __init__(self, verbose: bool) -> None:
        (consoles,) = require("rich.console", purpose="A comparison", extra="compare")
        self._console = consoles.Console(quiet=not verbose, highlight=False)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def bar(self, total: float) -> Iterator[Callable[[float], None]]:
        """A progress bar with the time left; yields a function that advances it by seconds."""
        (progress,) = require("rich.progress", purpose="A comparison", extra="compare")
        columns = (
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("time left"),
            progress.TimeRemainingColumn(),
        )
        visible = self._console.is_terminal and not self._console.quiet
        with progress.Progress(*columns, console=self._console, disable=not visible) as shown:
            task = shown.add_task("", total=total)
            yield lambda seconds: shown.advance(task, seconds)
