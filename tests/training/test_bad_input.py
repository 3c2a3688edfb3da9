"""What cannot be trained is said in one line that names the fix, before anything is written."""

import dataclasses
import os
import pathlib
import re
import shutil
import sys
import typing

import numpy as np
import pytest
import tensorflow as tf

from tests.support.data_sets import store, write_folder
from tests.support.train_script import complaints, run_script, script
from zoo import training
from zoo.training.options import TrainOptions

tfds = pytest.importorskip("tensorflow_datasets")


def refused(tmp_path, *arguments):
    """The one line of an error, after which nothing is left."""
    before = sorted(tmp_path.rglob("*"))
    code, _, errors = script("--log-dir", tmp_path / "runs" / "run", *arguments)
    (line,) = errors.splitlines()
    assert code == 2 and line.startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before
    return line


# Numbers.

MAY_BE_ZERO = {"dropout", "momentum", "l2", "control_multiplier", "warmup_epochs", "seed"}
FRACTIONS = {"dropout", "momentum"}
RATES = {"learning_rate", "l2", "control_multiplier"}


def numbers():
    """Every option that takes a number, with its type; new ones too."""
    for field in dataclasses.fields(TrainOptions):
        types = {field.type, *typing.get_args(field.type)}
        for kind in (int, float):
            if kind in types:
                yield field.name, kind


def wrong_numbers():
    for name, kind in numbers():
        values = [kind(-1)]
        if name not in MAY_BE_ZERO:
            values.append(kind(0))
        if name in FRACTIONS:
            values += [1.0, 1.5]
        if name not in RATES:
            values.append(kind(10**30))
        if kind is float:
            values += [float("nan"), float("inf"), -float("inf"), -1e-9]
        yield from ((name, value) for value in values)


def test_every_number_has_a_range():
    names = {name for name, _ in numbers()}
    assert len(names) > 15 and MAY_BE_ZERO | RATES < names
    for name, value in wrong_numbers():
        options = dataclasses.replace(TrainOptions(), **{name: value})
        message = f"{name} must be .*Received: {name}={re.escape(str(value))}"
        with pytest.raises(ValueError, match=message):
            training.train(options)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--width", "nan"), "width must be positive. Received: width=nan"),
        (("--learning-rate", "inf"), "learning_rate must be positive"),
        (("--seed", -1), "seed must be 0 or positive"),
        (("--model", "lstm", "--dropout", 1), "dropout must be at least 0 and less than 1"),
        (("--train-examples", 10**6), "The set has 1437 train examples. Received: train_examples"),
        (("--model", "vgg"), "Unknown model 'vgg'. Known: resnet20, "),
        (("--model", ""), "Unknown model ''"),
        (("--norm", "bm"), "A norm is one of 'none', 'bn'"),
        (("--norm", "gn(groups=nan)"), "groups"),
        (("--norm", "bn(epsilon=-1)"), "epsilon"),
        (("--norm", "bn(nonsense=1)"), "nonsense"),
        (("--norm", "sn(statistics=('x',))"), "statistics"),
        (("--norm", "bn("), "bn("),
        (("--dataset", ""), "Unknown dataset ''. Give 'digits'"),
        (("--dataset", "huggingface:x"), "Unknown dataset 'huggingface:x'"),
        (("--dataset", "../x"), "Unknown dataset '../x'"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_arguments(tmp_path, arguments, message):
    assert message in refused(tmp_path, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--precision", "float8"),
        ("--precision", "nan"),
        ("--log-every", "sometimes"),
        ("--log-every", "2.5"),
        ("--optimizer", "lion"),
        ("--schedule", "linear"),
        ("--epochs", "nan"),
        ("--epochs", "many"),
        ("--seed", "1.5"),
        ("--width", "wide"),
        ("--bogus",),
    ],
    ids="-".join,
)
def test_what_the_command_line_cannot_parse(tmp_path, arguments):
    code, out, errors = script("--log-dir", tmp_path / "run", *arguments)
    assert code == 2 and not out
    assert "Traceback" not in errors and arguments[0] in errors
    assert not list(tmp_path.iterdir())


# Data.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of images, and a directory of TensorFlow Datasets, that are to be damaged."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root / "images")
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    rng = np.random.default_rng(0)
    store(
        str(root / "tfds"),
        "tiny",
        features,
        **{
            split: {
                "image": rng.integers(0, 255, (count, 8, 8, 3)).astype("uint8"),
                "label": np.resize([0, 1], count),
            }
            for split, count in (("train", 40), ("test", 7))
        },
    )
    return root


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def write(path, content):
    path.write_bytes(content)


PNG = tf.io.encode_png(np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype("uint8"))
IMAGES = {
    "text": (
        lambda root: write(root / "train" / "dog" / "1.png", b"no image"),
        "train/dog/1.png cannot be read as an image: Unknown image file format",
    ),
    "empty": (
        lambda root: write(root / "test" / "cat" / "2.png", b""),
        "test/cat/2.png cannot be read as an image: Input is empty. Repair it or remove it",
    ),
    "half": (
        lambda root: write(root / "train" / "dog" / "1.png", PNG.numpy()[:150]),
        "train/dog/1.png cannot be read as an image: Invalid PNG data",
    ),
    "empty class": (
        lambda root: empty(root / "train" / "dog"),
        "train/dog holds no images (.jpeg, .jpg, .png). Put some there, or remove the folder",
    ),
    "empty class in test": (
        lambda root: empty(root / "test" / "dog"),
        "test/dog holds no images",
    ),
    "class in test only": (
        lambda root: shutil.rmtree(root / "train" / "dog"),
        "test/dog is a class without training images. Those of train are cat",
    ),
    "no class": (lambda root: empty(root / "train"), "train needs a folder for each class"),
    "no test": (
        lambda root: shutil.rmtree(root / "test"),
        "needs train and test (or validation, val) splits with labels. It has: train",
    ),
    "no train": (lambda root: shutil.rmtree(root / "train"), "Unknown dataset"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_a_folder_of_images(whole, tmp_path, case):
    damage, message = IMAGES[case]
    shutil.copytree(whole / "images", tmp_path / "images")
    damage(tmp_path / "images")
    assert message in refused(tmp_path, "--dataset", str(tmp_path / "images"), "--batch-size", 4)


def shard(root, split="train"):
    return next(root.glob(f"*-{split}.tfrecord*"))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SETS = {
    "truncated": lambda root: write(shard(root), shard(root).read_bytes()[:-100]),
    "truncated test": lambda root: write(
        shard(root, "test"), shard(root, "test").read_bytes()[:50]
    ),
    "bit flipped": lambda root: flip_a_bit(shard(root)),
    "empty file": lambda root: write(shard(root), b""),
    "no file": lambda root: shard(root, "test").unlink(),
    "no information": lambda root: (root / "dataset_info.json").unlink(),
    "broken information": lambda root: write(root / "dataset_info.json", b"{{"),
    "binary information": lambda root: write(root / "dataset_info.json", bytes(range(256))),
    "no features": lambda root: (root / "features.json").unlink(),
    "broken features": lambda root: write(root / "features.json", b"{}"),
}


@pytest.mark.parametrize("case", SETS)
def test_a_set_of_tensorflow_datasets(whole, tmp_path, case):
    shutil.copytree(whole / "tfds", tmp_path / "tfds")
    SETS[case](tmp_path / "tfds" / "tiny" / "plain" / "1.0.0")
    data = ("--dataset", "tiny/plain", "--data-dir", str(tmp_path / "tfds"))
    line = refused(tmp_path, *data, "--batch-size", 4)
    assert f"The dataset 'tiny/plain' in {tmp_path / 'tfds' / 'tiny'}" in line
    assert " cannot be read: " in line and "prepare the set again" in line


def test_what_is_whole_is_not_refused(whole):
    """Else the tests above show nothing."""
    for data in (
        {"dataset": str(whole / "images"), "image_size": 8},
        {"dataset": "tiny/plain", "data_dir": str(whole / "tfds")},
    ):
        with pytest.raises(ValueError, match="do not fill one global batch of 999"):
            training.train(TrainOptions(**data, batch_size=999, log_dir=str(whole / "run")))
    assert not (whole / "run").exists()


# Run folders.


def test_a_log_dir_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    for folder in (path, path / "run"):
        code, _, errors = script("--log-dir", folder)
        (line,) = errors.splitlines()
        assert code == 2 and f"{folder} is no folder, but a file or below one. Choose" in line
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 300])
def test_a_log_dir_whose_name_is_too_long(tmp_path, name):
    code, _, errors = script("--log-dir", tmp_path / name)
    (line,) = errors.splitlines()
    assert code == 2 and "cannot be written: File name too long. Choose another" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system where nobody may write")
@pytest.mark.parametrize("name", ["/sys/run", "/proc/run"])
def test_a_file_system_that_takes_nothing(name):
    code, _, errors = script("--log-dir", name)
    (line,) = errors.splitlines()
    assert code == 2 and f"{name} cannot be written: " in line and "--log-dir" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do all")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, errors = script("--log-dir", tmp_path / "locked" / "run")
    (line,) = errors.splitlines()
    assert code == 2 and "cannot be written: Permission denied. Choose another" in line


@pytest.mark.process
def test_errors_are_all_that_a_process_says(whole, tmp_path):
    shutil.copytree(whole / "images", tmp_path / "images")
    (tmp_path / "images" / "train" / "dog" / "1.png").write_bytes(PNG.numpy()[:150])
    done = run_script("--dataset", str(tmp_path / "images"), "--log-dir", str(tmp_path / "run"))
    assert done.returncode == 2 and not done.stdout
    (line,) = complaints(done.stderr)
    assert line.startswith("error: ") and "train/dog/1.png cannot be read as an image" in line
    assert not pathlib.Path(tmp_path / "run").exists()
