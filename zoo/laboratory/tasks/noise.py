"""How noisy the statistics of a batch are, for each norm of a trained model."""

import contextlib

import numpy as np
from keras import ops

from keras_norms import watching
from keras_norms.moments import Moments, instance_moments, pool, pool_slices
from keras_norms.moving import MovingNormalization
from keras_norms.tree import named_layers


def batch_noise(model, batches, sizes, draws=200, seed=0):
    """Compares the noise of the batch mean with that of the batch variance.

    A batch norm of n values with mean m_B and standard deviation s_B, of a population with mean m
    and standard deviation s, errs in its output z = (x - m) / s by

        (x - m_B) / s_B - z  =  -(m_B - m) / s  -  z (s_B / s - 1)  +  ...

    so that the mean of z^2 being 1, the fair comparison is `mean_noise` = rms((m_B - m) / s)
    with `std_noise` = rms(s_B / s - 1): both are errors of the output, in units of its own standard
    deviation. `variance_noise` = rms(s_B^2 / s^2 - 1) is about twice `std_noise`: what it says
    against the variance is half a matter of units.

    For n independent values of kurtosis k (3 if Gaussian), to first order,

        mean_noise = 1 / sqrt(n),  std_noise = sqrt((k - 1) / 4n),  variance_noise = 2 std_noise

    which is 1 / sqrt(n), 1 / sqrt(2n) and sqrt(2 / n) for Gaussian ones: of these, the mean is the
    noisier in the output, and the variance noisier in its own units. Only heavy tails, k > 5, make
    the variance's share of the output's error the larger one. The values of a channel within a
    sample are not independent, so that n lies between the samples and the values of a batch.

    The claim of the paper is of another kind: that the noise of the mean is nearly Gaussian and so
    "gentler", while that of the variance has heavy tails. The kurtoses say whether it is so.

    Batches are drawn with replacement, so that what has been measured is the population. "rms"
    is about the population's value, and so knows that the variance of a single value is 0.

    Args:
        model: a trained `keras.Model`; it runs in inference mode and stays as it is.
        batches: iterable of batches `x` or `(x, y, ...)`.
        sizes: ints, samples of a batch.
        draws: int, batches drawn of each size.
        seed: int, of the draws.

    Returns:
        A list of dicts, one for each size and each norm with batch mean and variance outside of
        loops over time: "size", "layer" (its path), "mean_noise", "variance_noise", "std_noise",
        "mean_kurtosis" and "variance_kurtosis" of the errors over the draws (3 if Gaussian),
        medians over the channels that vary at all; None where there is no such number.

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


def _noise(moments, chosen, axes):
    """Measures of batches, whose samples are the rows of `chosen`."""
    # A few at a time, for a sample may have many steps.
    pieces = -(-chosen.size * moments.mean[0].size // 2**23)
    drawn = []
    for rows in np.array_split(chosen, min(pieces, len(chosen))):
        samples = (part if part is None else part[rows.ravel()] for part in moments)
        _, pooled = pool_slices(Moments(*samples), 0, rows.shape[1], axes)
        drawn.append([_by_channel(part) for part in pooled[:2]])
    mean, variance = map(np.concatenate, zip(*drawn, strict=True))
    (centre,), (spread,) = (_by_channel(part) for part in pool(moments, axes)[:2])
    varies = spread > 1e-12 * (1 + centre**2)  # float32 gives a dead unit no variance of 0
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


def _instance_moments(model, batches):
    """`{path: (norm, Moments of all samples)}` of what the norms get in inference mode."""
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
    parts = {path: [] for path in norms}
    with contextlib.ExitStack() as stack:
        for path, norm in norms.items():
            stack.enter_context(_recording(norm, parts[path]))
        for batch in batches:
            watching.run(model, batch)
    if not all(parts.values()):
        raise ValueError("`batches` holds no batch, or the model does not call its norms.")
    return {path: (norm, _joined(parts[path])) for path, norm in norms.items()}


def _recording(norm, parts):
    """Makes `norm` add the moments of each sample that it gets to `parts`."""
    normalize = norm.normalize

    def normalize_and_record(inputs, training=None, mask=None, first_step=0):
        x = ops.cast(inputs, "float32")
        _, _, moments = instance_moments(x, norm.axes, norm._align_mask(mask, x))
        parts.append(moments)
        return normalize(inputs, training, mask, first_step)

    return watching.replaced(norm, normalize=normalize_and_record)


def _joined(parts):
    """`Moments` of all samples, in NumPy."""

    def join(name):
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        shapes = [part.mean.shape for part in parts]  # a count may be one for all
        values = map(np.broadcast_to, map(ops.convert_to_numpy, values), shapes)
        return np.concatenate(list(values))

    return Moments(*map(join, Moments._fields))


def _by_channel(part):
    """`(sets, channels)` in float64; the channel is the one axis that is not pooled."""
    part = ops.convert_to_numpy(part).astype("float64")
    return part.reshape(len(part), -1)


def _rms(errors):
    """Root of the mean square over the draws."""
    return _median(np.sqrt(np.mean(errors**2, axis=0)))


def _kurtosis(errors):
    squares = (errors - errors.mean(0)) ** 2
    with np.errstate(invalid="ignore"):  # errors that are all the same
        return _median(np.mean(squares**2, axis=0) / np.mean(squares, axis=0) ** 2)


def _median(channels):
    """The median of what is finite, or None."""
    channels = channels[np.isfinite(channels)]
    return float(np.median(channels)) if channels.size else None
