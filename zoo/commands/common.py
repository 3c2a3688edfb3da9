"""What every command shares: a quiet start, and errors that fit on one line.

It imports nothing of Keras, so that a command can silence libraries before they load.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

# What a user can mend; anything else is a fault of the program and shows its traceback.
ERRORS = (ValueError, OSError, ImportError, FloatingPointError, RuntimeError)


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Silences stderr for a block of imports, also what C++ libraries write there."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def call(command: Callable[[Any], None], options: Any, interrupted: str = "interrupted") -> None:
    """Runs a command; an error ends the process with one line on stderr and exit code 2.

    Args:
        command: function of the options.
        options: its argument.
        interrupted: what Ctrl-C says, before exit code 130.
    """
    try:
        command(options)
    except ERRORS as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
