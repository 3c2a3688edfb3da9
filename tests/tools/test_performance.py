"""`benchmarks/performance.py` writes its figures below a text, and compares with them later."""

import importlib
import json
import re

import numpy as np
import pytest
import tyro

from tests.support.child import ROOT, run
from tests.support.norms import needs_tensorflow

pytestmark = needs_tensorflow


@pytest.fixture
def performance(monkeypatch):
    """The script as a module, in this process: only what measures a table has its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("performance")


@pytest.mark.process
def test_figures_are_written_and_compared(performance, tmp_path, monkeypatch, capsys):
    output, record = tmp_path / "P.md", tmp_path / "performance.json"
    output.write_text("# What norms cost\n\nText.\n\n## Figures\n\nold\n")
    arguments = ["--tables", "accuracy", "--output", str(output)]
    performance.main(tyro.cli(performance.Options, args=arguments))
    text = output.read_text()
    assert text.startswith("# What norms cost\n\nText.\n\n## Figures\n\n### ")
    assert "old" not in text and "performance.py --tables accuracy" in text
    known = json.loads(record.read_text())
    measured = performance.columns_of(json.loads(record.read_text()), "accuracy")
    (*_, cells), *_ = known["accuracy"]["columns"]
    errors = {row: 1e-6 * median for row, (median, _, _) in cells.items()}
    for row in ("BN", "IN", "LN (GN, 1 group)", "GN (32 groups)", "SN", "BIN"):
        assert errors[row] < 1e-5 < errors["keras BN"]

    for row, factor in (("SN", 10), ("keras BN", 0.1)):
        cells[row] = [factor * figure for figure in cells[row]]
    del cells["BN"]
    record.write_text(json.dumps(known))
    capsys.readouterr()
    monkeypatch.setattr(performance, "measure", lambda name, rounds: measured)
    performance.main(tyro.cli(performance.Options, args=[*arguments, "--check"]))
    said = capsys.readouterr().out.splitlines()
    said = [line for line in said if line.startswith("accuracy, ")]
    assert len(said) == 3
    for row, word in (("SN", "faster"), ("keras BN", "slower"), ("BN", "new")):
        assert any(f", {row}: {word}, " in line for line in said)
    assert output.read_text() == text  # a comparison writes nothing


def test_every_shape_of_inference_has_all_layers(performance, monkeypatch):
    layers = performance.layers
    monkeypatch.setattr(layers, "IMAGES", ((2, 16, 16, 32), (2, 16, 16, 64)))
    rows = {name for name in layers.image_layers() if not name.endswith(layers.UNFUSED)}
    assert [set(column.cells) for column in layers.inference(1)] == [rows, rows]


def test_how_costs_grow_is_drawn(performance, tmp_path):
    growth = performance.growth
    assert {f"growth-{name}" for name in growth.GROWTHS} == {
        name for name in performance.TABLES if name.startswith("growth-")
    }
    kind = growth.GROWTHS["depth"]
    base, *others = kind.rows
    columns = [
        (f"{size} {kind.unit}{ending}", base, 1.0, {base: (1, 1, 1), others[-1]: (size, 1, 1)})
        for ending in ("", ", memory")
        for size in kind.sizes
    ]
    known = {"growth-depth": {"columns": columns}}
    said = performance.growth_figure(known, tmp_path / "P.md")
    assert "(growth.png)" in said[0] and (tmp_path / "growth.png").stat().st_size > 10_000
    figure = growth.figure({"depth": performance.columns_of(known, "growth-depth")})
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    np.testing.assert_array_equal(lines[others[-1]].get_xydata(), [(n, n) for n in kind.sizes])
    assert performance.growth_figure({}, tmp_path / "P.md") == []


@pytest.mark.slow
@pytest.mark.process
def test_the_layers_on_a_gpu(tmp_path):
    """On any machine: whether the script works, on JAX and, if installed, on PyTorch."""
    output = tmp_path / "GPU.md"
    result = run("benchmarks/gpu.py", "--smoke", "--output", output)
    assert result.returncode == 0, result.stderr
    text = output.read_text()
    assert "Error" not in text
    for row in ("BN", "GN (32 groups)", "SN", "keras LN"):
        assert re.search(rf"^\| {re.escape(row)} \| \d+% \|", text, re.MULTILINE)
    assert re.search(r"^\| bn \| [\d.]+ ms \|", text, re.MULTILINE)
