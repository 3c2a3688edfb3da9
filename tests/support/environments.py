"""Python environments that tests make, without the packages of this one."""

import os
import subprocess
import sys
import venv


def call(*command, **options):
    """What a command printed, which has to succeed; it does not find the checkout."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def make_environment(folder, *packages):
    """The Python of a new environment, into which `pip install` has put packages.

    Args:
        folder: where it is made.
        *packages: arguments of `pip install`.
    """
    venv.create(folder)
    python = folder / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", *packages)
    return python
