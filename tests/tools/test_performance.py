"""`benchmarks/performance.py` writes its figures below a text, and compares with them later."""

import json

import pytest

from tests.support.child import run
from tests.support.norms import needs_tensorflow

pytestmark = needs_tensorflow


def performance(*arguments):
    result = run("benchmarks/performance.py", *arguments)
    assert result.returncode == 0, result.stderr[-5000:]
    return result.stdout


@pytest.mark.process
def test_figures_are_written_and_compared(tmp_path):
    output, record = tmp_path / "P.md", tmp_path / "performance.json"
    output.write_text("# What norms cost\n\nText.\n\n## Figures\n\nold\n")
    performance("--tables", "accuracy", "--output", output)
    text = output.read_text()
    assert text.startswith("# What norms cost\n\nText.\n\n## Figures\n\n### ")
    assert "old" not in text and "performance.py --tables accuracy" in text
    known = json.loads(record.read_text())
    (*_, cells), *_ = known["accuracy"]["columns"]
    errors = {row: 1e-6 * median for row, (median, _, _) in cells.items()}
    for row in ("BN", "IN", "LN (GN, 1 group)", "GN (32 groups)", "SN", "BIN"):
        assert errors[row] < 1e-5 < errors["keras BN"]

    for row, factor in (("SN", 10), ("keras BN", 0.1)):
        cells[row] = [factor * figure for figure in cells[row]]
    del cells["BN"]
    record.write_text(json.dumps(known))
    said = performance("--tables", "accuracy", "--output", output, "--check").splitlines()
    said = [line for line in said if line.startswith("accuracy, ")]
    assert len(said) == 3
    for row, word in (("SN", "faster"), ("keras BN", "slower"), ("BN", "new")):
        assert any(f", {row}: {word}, " in line for line in said)
    assert output.read_text() == text  # a comparison writes nothing
