"""scripts/compare.py: from a file and a function to a report."""

import pytest

from tests.selection.made import mlp, points
from zoo.commands import compare as script

MODULE = """
import numpy as np
from tests.selection.made import mlp, points

def make_datasets():
    return points(), points(64, seed=1)

def build():
    return mlp()

def build_with(norm):
    import keras_norms
    return mlp(norm=keras_norms.get(norm).normalize)
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return path


@pytest.mark.parametrize("kind", ["file", "build_with"])
def test_a_report_is_written(kind, module, tmp_path, capsys):
    model = f"{module}:{kind}"
    if kind == "file":
        model = str(tmp_path / "model.keras")
        trained = mlp()
        trained.train_on_batch(*points(32))  # Keras warns where an optimizer has no state
        trained.save(model)
    output = tmp_path / "out"
    options = f"--data {module}:make_datasets --norms bn --seeds 1 --steps 16 --output {output}"
    script.main([model, *options.split()])
    printed = capsys.readouterr().out
    assert "1 norms x 1 batch sizes x 1 seeds, 16 steps" in printed
    assert "bn, batches of 32, seed 0: accuracy" in printed
    assert "What to do next" in printed and f"report: {output / 'report.html'}" in printed
    assert "--steps 16" in (output / "report.html").read_text()
    script.main([model, *options.split(), "--resume"])
    assert "seed 0: accuracy" not in capsys.readouterr().out  # nothing was left to do


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("{module}:build", "nowhere.py:make", "Name a function in a file"),
        ("{module}:build", "{module}:make", "has no function make"),
        ("{module}:build", "{module}", "Name a function in a file"),
        ("{module}:build --norms bn batchnorm", "{module}:make_datasets", "did you mean 'bn'"),
    ],
)
def test_errors_fit_on_one_line(model, data, message, module, tmp_path, capsys):
    words = f"{model} --data {data} --steps 4 --output {tmp_path}/out".format(module=module)
    with pytest.raises(SystemExit, match="2"):
        script.main(words.split())
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
