"""Runs scripts/train.py, in a process of its own or in this one."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "train.py"


def run_script(*arguments):
    """A process of its own, as a user starts it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def script(*arguments):
    """Runs the script's `main` in this process: `(exit code, stdout, stderr)`."""
    spec = importlib.util.spec_from_file_location("train_script_main", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code = 0
    with (
        mock.patch.object(sys, "argv", ["train.py", *map(str, arguments)]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            module.main()
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def record(folder):
    """What run.json holds."""
    return json.loads((folder / "run.json").read_text())
