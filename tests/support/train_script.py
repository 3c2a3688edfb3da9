"""Runs scripts/train.py, in a process of its own or in this one."""

import contextlib
import io
import json
import sys
from unittest import mock

from tests.support.child import ROOT, run
from zoo.commands import train as command

SCRIPT = ROOT / "scripts" / "train.py"


def run_script(*arguments):
    """A process of its own, as a user starts it."""
    return run(SCRIPT, *arguments)


def complaints(errors):
    """The lines of stderr after the one that every command begins with."""
    first, *others = errors.splitlines()
    assert first == "Loading TensorFlow ..."
    return others


def script(*arguments):
    """Runs the script's `main` in this process: `(exit code, stdout, stderr)`."""
    code = 0
    with (
        mock.patch.object(sys, "argv", ["train.py", *map(str, arguments)]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            command.main()
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def record(folder):
    """What run.json holds."""
    return json.loads((folder / "run.json").read_text())
