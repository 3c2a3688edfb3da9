"""Folders of images: each split is a folder that holds a folder for each class."""

import concurrent.futures
import os

import tensorflow as tf

from zoo.data.source import decode_image, first_line

TEST_SPLITS = ("test", "validation", "val")
# The endings of images that TensorFlow Datasets reads.
_ENDINGS = (".jpeg", ".jpg", ".png")


def check_folder(root: str, max_bytes: int) -> None:
    """Checks that each class has images, and that these can be decoded.

    Args:
        root: the folder that holds the splits.
        max_bytes: images are decoded if the folder has at most so many bytes.

    Raises:
        ValueError: for the first fault, with the path of its folder or image.
    """
    splits = {
        split: _images_by_class(os.path.join(root, split))
        for split in ("train", *TEST_SPLITS)
        if os.path.isdir(os.path.join(root, split))
    }
    for split, classes in splits.items():
        if not classes:
            raise ValueError(
                f"{os.path.join(root, split)} needs a folder for each class, with its images."
            )
        for name, paths in classes.items():
            if not paths:
                raise ValueError(
                    f"{os.path.join(root, split, name)} holds no images ({', '.join(_ENDINGS)}). "
                    "Put some there, or remove the folder."
                )
            if name not in splits["train"]:
                raise ValueError(
                    f"{os.path.join(root, split, name)} is a class without training images. "
                    f"Those of train are {', '.join(sorted(splits['train']))}."
                )
    if folder_bytes(root) > max_bytes:
        return
    images = [path for classes in splits.values() for paths in classes.values() for path in paths]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for path, fault in zip(images, pool.map(_find_fault, images), strict=True):
            if fault:
                raise ValueError(
                    f"{path} cannot be read as an image: {fault}. Repair it or remove it."
                )


def folder_bytes(path: str) -> int:
    """The size of all files below a folder, in bytes."""
    walk = os.walk(path, followlinks=True)
    return sum(os.path.getsize(os.path.join(at, file)) for at, _, files in walk for file in files)


def _images_by_class(folder: str) -> dict[str, list[str]]:
    return {
        entry.name: sorted(
            image.path for image in os.scandir(entry) if image.name.lower().endswith(_ENDINGS)
        )
        for entry in os.scandir(folder)
        if entry.is_dir()
    }


def _find_fault(path: str) -> str | None:
    """What is wrong with an image; None if it can be decoded."""
    try:
        with tf.device("CPU"):
            decode_image(tf.io.read_file(path), channels=3)
    except tf.errors.OpError as error:
        return first_line(error)
    return None
