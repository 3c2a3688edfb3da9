"""Processes that tests start: scripts as a user starts them, modules, pieces of code."""

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
# A child on JAX: two devices, and little optimization, as compiling is what takes its time.
JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": (
        "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true"
    ),
}


def environment(**changes):
    """The environment of a child: it finds this checkout and prints wide lines."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return inherited | {"PYTHONPATH": path, "COLUMNS": "200", "TF_CPP_MIN_LOG_LEVEL": "3"} | changes


def start(*arguments, python=sys.executable, env=(), **options):
    """A Python process that has begun; `options` are those of `subprocess.Popen`."""
    command = [python, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, env=environment(**dict(env)), cwd=ROOT, **options)


def run(*arguments, env=(), timeout=600, **options):
    """A Python process that has ended, with what it printed."""
    with start(*arguments, env=env, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run_code(code, *arguments, **env):
    """What a piece of code printed, which has to succeed."""
    result = run("-c", textwrap.dedent(code), *arguments, env=env)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def run_tests(*arguments, python=sys.executable, **env):
    """Runs tests in a process where TensorFlow or another backend starts afresh."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    result = run("-m", "pytest", *options, *arguments, python=python, env=env, timeout=3600)
    assert result.returncode == 0, result.stdout[-20000:]  # 5 where no test ran
