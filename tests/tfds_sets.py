"""Tiny sets of TensorFlow Datasets, on disk."""

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
