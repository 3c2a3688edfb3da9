"""benchmarks/export.py: what runtimes compute, and what docs/EXPORT.md says of it."""

import pytest

from tests.support.child import ROOT, run
from tests.support.norms import needs_tensorflow

pytestmark = needs_tensorflow
# The largest difference that rounding explains, relative to the largest output. Of integers there
# is none: what they do to a model depends on the model.
TOLERANCES = {
    "SavedModel": 1e-5,
    ".keras": 1e-5,
    ".weights.h5": 1e-5,
    "ONNX": 1e-5,
    "LiteRT": 1e-5,
    "LiteRT float16": 0.05,
    "LiteRT int8": float("inf"),
}


def tables(text):
    """`{model: {norm: {format: cell}}}`."""
    found = {}
    for part in text.split("\n### ")[1:]:
        title, *lines = part.splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"]
        (_, *formats), _, *rest = rows
        found[title] = {norm: dict(zip(formats, cells, strict=True)) for norm, *cells in rest}
    return found


def check(table):
    for norm, cells in table.items():
        for name, cell in cells.items():
            assert cell.startswith("fails [") or float(cell) <= TOLERANCES[name], (norm, name)


def test_figures_in_the_documentation():
    found = tables((ROOT / "docs" / "EXPORT.md").read_text())
    assert len(found) == 7
    for name, table in found.items():
        assert {"none", "bn", "ln", "wn", "wn_mobn"} <= set(table)
        check(table)
        fails = {
            (norm, title)
            for norm, cells in table.items()
            for title, cell in cells.items()
            if "fails" in cell
        }
        # A loop over time needs what LiteRT leaves to TensorFlow, and a gate's division integers.
        known = {(norm, title) for norm in table for title in TOLERANCES if "LiteRT" in title}
        assert fails <= (known if name == "lstm" else {("bin", "LiteRT int8")}), name


@pytest.mark.process
@pytest.mark.slow
def test_models_run_in_their_runtimes(tmp_path):
    output = tmp_path / "export.md"
    done = run(
        *("benchmarks/export.py", "--output", output, "--models", "mlp", "resnet"),
        *("--norms", "bn", "sn", "--formats", "SavedModel", ".keras", "LiteRT", "LiteRT int8"),
    )
    assert not done.returncode, done.stderr
    found = tables(output.read_text())
    assert set(found) == {"mlp", "resnet"}
    for table in found.values():
        assert set(table) == {"bn", "bn, folded", "sn"}
        check(table)
    done = run("benchmarks/export.py", "--models", "resnet50")
    assert done.returncode and "Known are resnet, conv6" in done.stderr
