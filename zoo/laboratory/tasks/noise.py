"""How noisy the batch statistics of a trained model are, for each norm."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norms import patching
from keras_norms.model_layers import named_layers
from keras_norms.moments import Moments, instance_moments, pool, pool_slices
from keras_norms.moving import MovingNormalization
from keras_norms.recurrent import NormalizedLoop


def batch_noise(
    model: keras.Model,
    batches: Iterable[Any],
    sizes: Sequence[int],
    draws: int = 200,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compares the noise of the batch mean with that of the batch variance.

    Let all values have mean m and standard deviation s, and let z = (x - m) / s be the exact
    output. A batch of n values with mean m_B and standard deviation s_B gives it an error of

        (x - m_B) / s_B - z  =  -(m_B - m) / s  -  z (s_B / s - 1)  +  ...

    The mean of z^2 is 1. So the fair comparison is that of `mean_noise` = rms((m_B - m) / s) with
    `std_noise` = rms(s_B / s - 1): both are errors of the output, in units of its own standard
    deviation. `variance_noise` = rms(s_B^2 / s^2 - 1) is about twice `std_noise`, but only
    because it is in another unit.

    For n independent values of kurtosis k, to first order,

        mean_noise = 1 / sqrt(n),  std_noise = sqrt((k - 1) / 4n),  variance_noise = 2 std_noise

    Gaussian values have k = 3, which gives 1 / sqrt(n), 1 / sqrt(2n) and sqrt(2 / n). So the mean
    is noisier in the output, and the variance is noisier in its own unit. With heavy tails, k > 5,
    the variance adds more to the error of the output than the mean does. The values of a channel
    within a sample are not independent, so n lies between the samples and the values of a batch.

    The paper claims something else: the noise of the mean is nearly Gaussian and therefore
    "gentler", while that of the variance has heavy tails. The kurtoses tell whether that is so.

    Batches are drawn with replacement, so the measured samples are the whole population. "rms" is
    taken about the population's value, not about the mean over the draws: a batch of a single
    value, whose variance is always 0, has a `variance_noise` of 1.

    Args:
        model: a trained model; it runs in inference mode and is not changed.
        batches: batches `x` or `(x, y, ...)`.
        sizes: samples of a batch.
        draws: batches drawn of each size.
        seed: of the draws.

    Returns:
        One dict for each size and each norm with a batch mean and variance. Norms inside a loop
        over time are left out. A dict holds "size", "layer" (the path), "mean_noise",
        "variance_noise" and "std_noise"; "mean_kurtosis" and "variance_kurtosis" are those of the
        errors over the draws. Each measure is the median over the channels that vary at all, or
        None without a finite value.

    Raises:
        ValueError: if there is no such norm, or no batch.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), section 4.
    """
    measured = _instance_moments(model, batches)
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        for path, (norm, moments) in measured.items():
            chosen = rng.integers(len(moments.mean), size=(draws, size))
            noise = _noise(moments, chosen, norm.pooled_axes)
            rows.append({"size": size, "layer": path, **noise})
    return rows


def _noise(moments: Moments, chosen: np.ndarray, axes: tuple[int, ...]) -> dict[str, float | None]:
    """The measures of batches; each row of `chosen` has the samples of one."""
    # A few batches at a time, because a sample may have many steps.
    pieces = -(-chosen.size * moments.mean[0].size // 2**23)
    drawn = []
    for rows in np.array_split(chosen, min(pieces, len(chosen))):
        samples = (part if part is None else part[rows.ravel()] for part in moments)
        _, pooled = pool_slices(Moments(*samples), 0, rows.shape[1], axes)
        drawn.append([_by_channel(part) for part in pooled[:2]])
    mean, variance = map(np.concatenate, zip(*drawn, strict=True))
    (centre,), (spread,) = (_by_channel(part) for part in pool(moments, axes)[:2])
    varies = spread > 1e-12 * (1 + centre**2)  # in float32 a dead unit's variance is not quite 0
    mean, variance = mean[:, varies], variance[:, varies]
    shift = (mean - centre[varies]) / np.sqrt(spread[varies])
    ratio = variance / spread[varies]
    return {
        "mean_noise": _rms(shift),
        "variance_noise": _rms(ratio - 1),
        "std_noise": _rms(np.sqrt(ratio) - 1),
        "mean_kurtosis": _kurtosis(shift),
        "variance_kurtosis": _kurtosis(ratio),
    }


def _instance_moments(
    model: keras.Model, batches: Iterable[Any]
) -> dict[str, tuple[MovingNormalization, Moments]]:
    """`{path: (norm, moments of each sample)}` of the inputs of the norms, in inference mode."""
    layers = named_layers(model)
    loops = {id(n) for layer in layers.values() for n in getattr(layer, "loop_norms", ())}
    norms = {
        path: norm
        for path, norm in layers.items()
        if isinstance(norm, MovingNormalization)
        and norm.moving_mean is not None
        and norm.moving_variance is not None
        and id(norm) not in loops
    }
    if not norms:
        raise ValueError(f"The model {model.name!r} has no norm with batch mean and variance.")
    parts: dict[str, list[Moments]] = {path: [] for path in norms}
    with contextlib.ExitStack() as stack:
        for path, norm in norms.items():
            stack.enter_context(_recording(norm, parts[path]))
        for layer in layers.values():
            if isinstance(layer, NormalizedLoop):
                # Each call of a norm is then one of all time steps.
                stack.enter_context(patching.replaced(layer, inputs_at_once=lambda: True))
        for batch in batches:
            patching.run(model, batch)
    if not all(parts.values()):
        raise ValueError("`batches` holds no batch, or the model does not call its norms.")
    return {path: (norm, _joined(parts[path])) for path, norm in norms.items()}


def _recording(
    norm: MovingNormalization, parts: list[Moments]
) -> contextlib.AbstractContextManager[None]:
    """Makes a norm append the moments of the samples of each call to `parts`."""
    normalize = norm.normalize

    def normalize_and_record(
        inputs: Any, training: bool | None = None, mask: Any = None, first_step: int = 0
    ) -> Any:
        x = ops.cast(inputs, "float32")
        _, _, moments = instance_moments(x, norm.axes, norm._align_mask(mask, x))
        parts.append(moments)
        return normalize(inputs, training, mask, first_step)

    return patching.replaced(norm, normalize=normalize_and_record)


def _joined(parts: Sequence[Moments]) -> Moments:
    """The moments of all samples, as arrays of NumPy."""

    def join(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        shapes = [part.mean.shape for part in parts]  # one count may serve all samples
        arrays = map(np.broadcast_to, map(ops.convert_to_numpy, values), shapes)
        return np.concatenate(list(arrays))

    return Moments(*map(join, Moments._fields))


def _by_channel(part: Any) -> np.ndarray:
    """Moments of shape `(sets, channels)` in float64; all other axes are pooled."""
    part = ops.convert_to_numpy(part).astype("float64")
    return part.reshape(len(part), -1)


def _rms(errors: np.ndarray) -> float | None:
    """The root mean square over the draws."""
    return _median(np.sqrt(np.mean(errors**2, axis=0)))


def _kurtosis(errors: np.ndarray) -> float | None:
    """The kurtosis over the draws."""
    squares = (errors - errors.mean(0)) ** 2
    with np.errstate(invalid="ignore"):  # where all errors are the same
        return _median(np.mean(squares**2, axis=0) / np.mean(squares, axis=0) ** 2)


def _median(channels: np.ndarray) -> float | None:
    """The median of the finite values, or None."""
    channels = channels[np.isfinite(channels)]
    return float(np.median(channels)) if channels.size else None
