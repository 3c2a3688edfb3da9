"""A user's data in memory, and its batches in an order that a seed fixes."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

Batch = tuple[Any, Any, Any]  # inputs, targets, and weights of samples or None


class Samples(NamedTuple):
    """Samples in memory.

    Attributes:
        x: inputs: an array, or a list or dict of arrays, all of as many samples.
        y: targets, the same.
        weight: weights of samples, or None.
    """

    x: Any
    y: Any
    weight: Any = None

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(keras.tree.flatten(self.x)[0])

    def at(self, index: Any) -> Batch:
        """Some of the samples, as a batch."""
        return keras.tree.map_structure(
            lambda part: None if part is None else part[index], tuple(self)
        )

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Endless batches; each epoch has an order of its own, and leaves out what fills none."""
        epoch = 0
        while True:
            order = np.random.default_rng((seed, epoch)).permutation(self.count)
            for start in range(0, self.count - size + 1, size):
                yield self.at(order[start : start + size])
            epoch += 1

    def fingerprint(self) -> str:
        """A text that differs for other data."""
        digest = hashlib.sha256()
        for part in keras.tree.flatten(tuple(self)):
            if part is not None:
                digest.update(str((part.shape, part.dtype)).encode())
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def read(data: Any, name: str) -> tuple[Samples, int]:
    """All samples of `train` or `validation`, and the size of their batches.

    Args:
        data: arrays `(x, y)` or `(x, y, weights)`, a `keras.utils.PyDataset`, or a
            `tf.data.Dataset` of batches that ends.
        name: of the argument, for error messages.

    Raises:
        ValueError: if it is none of these, has no targets, no samples or no end.
    """
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        samples, size = _samples([data], name), 32
    else:
        batches = list(_batches(data, name))
        if not batches:
            raise ValueError(f"`{name}` has no batch. Pass data that is not empty.")
        samples = _samples(batches, name)
        size = len(keras.tree.flatten(batches[0][0])[0])
    counts = {len(part) for part in keras.tree.flatten(tuple(samples)) if part is not None}
    if len(counts) > 1 or not min(counts):
        raise ValueError(
            f"All arrays of `{name}` need as many samples, at least one. Received: "
            f"{', '.join(map(str, sorted(counts)))} samples"
        )
    return samples, size


def _batches(data: Any, name: str) -> Iterable[Any]:
    endless = f"`{name}` has no end. Pass the data before `repeat`, or `take` some batches of it."
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        if count is None:
            raise ValueError(endless)
        return (data[i] for i in range(count))
    if hasattr(data, "element_spec"):  # a tf.data.Dataset; other backends do not have TensorFlow
        if int(data.cardinality()) == -1:
            raise ValueError(endless)
        return data.as_numpy_iterator()
    raise ValueError(
        f"`{name}` must be arrays (x, y), a tf.data.Dataset or a keras.utils.PyDataset. Received: "
        f"{type(data).__name__}"
    )


def _samples(batches: list, name: str) -> Samples:
    if not isinstance(batches[0], (tuple, list)) or len(batches[0]) not in (2, 3):
        raise ValueError(
            f"`{name}` yields no targets. Each batch must be (x, y) or (x, y, weights), as `fit` "
            f"takes it. Received: {type(batches[0]).__name__}"
        )
    try:
        arrays = [keras.tree.map_structure(_array, tuple(batch)) for batch in batches]
        joined = keras.tree.map_structure(lambda *parts: _joined(parts), *arrays)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"All batches of `{name}` need arrays of the same structure, and samples of one shape: "
            f"{error}"
        ) from error
    return Samples(*joined)


def _array(value: Any) -> Any:
    return None if value is None else np.asarray(keras.ops.convert_to_numpy(value))


def _joined(parts: tuple) -> Any:
    if parts[0] is None or len(parts) == 1:
        return parts[0]
    return np.concatenate(parts)
