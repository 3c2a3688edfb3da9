"""Keeps what C++ libraries write to stderr while they load from the user."""

import contextlib
import os


@contextlib.contextmanager
def silent_libraries():
    """Silences stderr, below Python, for a block of imports."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
