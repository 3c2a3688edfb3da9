"""The wheel works where there is no checkout."""

import os
import shutil
import sys
import sysconfig
import zipfile

import pytest

from tests.support.child import ROOT
from tests.support.environments import call, make_environment
from tests.support.train_script import record

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, from a copy of what it is made of: no stale build folder, none left behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("keras_norms", "zoo"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a new environment: the wheel, and the packages of this one beside it."""
    python = make_environment(tmp_path_factory.mktemp("environment"), "--no-deps", wheel)
    # As a folder of packages alone: an editable installation of the checkout stays unknown.
    packages = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    with open(os.path.join(packages, "others.pth"), "w") as others:
        others.write(sysconfig.get_path("purelib"))
    return python


def test_the_wheel_holds_the_packages_and_their_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"keras_norms/py.typed", "zoo/py.typed", "keras_norms/page.css"} <= set(names)
    page = ROOT / "keras_norms" / "tensorboard" / "static"
    assert {str(path.relative_to(ROOT)) for path in page.rglob("*.*")} <= set(names)
    assert "keras_norms/tensorboard/static/vendor/LICENSE" in names
    modules = [path for part in ("keras_norms", "zoo") for path in (ROOT / part).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in modules} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"keras_norms", "zoo"}


def test_commands_run_outside_the_checkout(python, tmp_path):
    code = "import keras_norms, zoo; print(keras_norms.__file__, zoo.__file__)"
    where = call(python, "-c", code, cwd=tmp_path)
    assert str(ROOT) not in where and where.count(str(python.parents[1])) == 2
    options = "--model mlp --norm sn --dataset digits --epochs 2 --no-export --log-dir run".split()
    printed = call(python, "-m", "zoo.commands.train", *options, cwd=tmp_path)
    assert "test accuracy" in printed
    assert record(tmp_path / "run")["results"]["accuracy"] > 0.2
    printed = call(python, "-m", "zoo.commands.preferences", "run", cwd=tmp_path)
    assert "preferences.png" in printed and (tmp_path / "run" / "preferences.png").exists()
    assert "synthetic" in call(python, "-m", "zoo.commands.study", cwd=tmp_path)
    assert "--html" in call(python, "-m", "zoo.commands.report", "--help", cwd=tmp_path)
