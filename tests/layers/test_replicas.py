"""The norms on replicas: runs `replicas*.py` and `data_parallel.py` in processes of their own.

On JAX, test_backends.py runs the part of `data_parallel.py` that is not slow.
"""

import pytest

from tests.support.child import JAX, ROOT, run, run_tests
from tests.support.norms import needs_tensorflow

pytestmark = needs_tensorflow
GROUPS = {
    "TestStatistics": "tests/layers/replicas.py",
    "TestCounts": "tests/layers/replicas.py",
    "TestTraining": "tests/layers/replicas.py",
    "TestRecurrent": "tests/layers/replicas.py",
    "TestFit or TestOptimizers or TestMetrics": "tests/training/replicas_fit.py",
}


@pytest.mark.process
def test_replicas():
    run_tests(*sorted(set(GROUPS.values())), "-m", "not slow")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_replicas_all_cases(group):
    run_tests(GROUPS[group], "-m", "slow", "-k", group)


@pytest.mark.process
@pytest.mark.slow
def test_two_devices_of_jax_all_cases():
    run_tests("tests/layers/data_parallel.py", "-m", "slow", **JAX)


def figures(text):
    """The rows of the tables, `{name: cells}` for each."""
    for part in text.split("\n### ")[1:]:
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line[:1] == "|"]
        yield {name: cells for name, *cells in rows[2:]}


def check(table):
    for name, (*cells, between) in table.items():
        differs = [cell for cell in cells if cell != "-" and float(cell) > 1e-5]
        assert bool(differs) == name.endswith(", apart"), name
        assert between == "0", name


def test_figures_in_the_documentation():
    tables = list(figures((ROOT / "docs" / "REPLICAS.md").read_text()))
    assert len(tables) == 3
    for table in tables:
        assert {"bn, synchronized", "sn, apart, slices", "gn"} < set(table)
        check(table)


@pytest.mark.process
@pytest.mark.slow
def test_the_script_that_makes_them(tmp_path):
    output = tmp_path / "replicas.md"
    output.write_text("What it says.\n\n## Figures\n\nof before")
    options = ("--replicas", 2, "--norms", "bn", "in")
    result = run("benchmarks/replicas.py", "--output", output, *options)
    assert result.returncode == 0, result.stderr[-4000:]
    text = output.read_text()
    assert text.startswith("What it says.\n\n## Figures\n") and "of before" not in text
    for wrong, complaint in (
        (("--norms", "nothing"), "Unknown norms ['nothing']"),
        (("--replicas", 3), "32 samples cannot be split equally among [3] replicas"),
    ):
        assert complaint in run("benchmarks/replicas.py", "--output", output, *wrong).stderr
    assert output.read_text() == text
    (table,) = figures(text)
    assert list(table) == ["bn, synchronized", "bn, apart", "bn, apart, slices", "in"]
    check(table)
