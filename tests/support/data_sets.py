"""Tiny sets on disk: of TensorFlow Datasets, and folders of images."""

import numpy as np
import tensorflow as tf


def store(data_dir, name, features, **splits):
    """Writes the set `name/plain`, whose splits are dicts of arrays, into `data_dir`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(examples)
            for split, examples in splits.items()
        },
        data_dir=data_dir,
        config="plain",
    )


def write_folder(root, test="test"):
    """PNGs of different sizes: class i has brightness 100 * i."""
    for split, count in (("train", 5), (test, 3)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((20 + i, 30, 3), 100 * label, "uint8")
                (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return str(root)
