"""What every command shares: a quiet start, its options, and errors that fit on one line.

It imports nothing of Keras, so that a command can silence libraries before they load.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import docstring_parser
import tyro

_Options = TypeVar("_Options")

# Errors that a user can mend. All others are faults of the program and show their traceback.
ERRORS = (ValueError, OSError, ImportError, FloatingPointError, RuntimeError)


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Silences stderr during imports, including what C++ libraries write to it.

    One line before says what takes seconds. The processes of a study, which import its command
    again, do not repeat it.
    """
    if multiprocessing.parent_process() is None:
        print("Loading TensorFlow ...", file=sys.stderr, flush=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def parse(options: type[_Options], args: Sequence[str] | None = None) -> _Options:
    """The options on the command line, as an instance of a dataclass.

    Args:
        options: the dataclass. The help of an option is the docstring below its field.
        args: the words of the command line; by default those of this process.
    """
    help = {p.arg_name: p.description for p in docstring_parser.parse_from_object(options).params}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        # tyro would keep the line breaks of the source, and wrap the pieces once more.
        text = " ".join((help.get(field.name) or "").split())
        field.metadata = {**field.metadata, "help": text}  # type: ignore[assignment]
    return tyro.cli(options, args=args)


def run_command(
    command: Callable[[Any], None], options: Any, interrupted: str = "interrupted"
) -> None:
    """Runs a command. An error prints one line on stderr and ends the process with code 2.

    Args:
        command: function of the options.
        options: its argument.
        interrupted: the line that Ctrl-C prints, before it ends the process with code 130.
    """
    try:
        command(options)
    except ERRORS as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
