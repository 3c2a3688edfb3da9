"""`NormalizedLSTM` in float64 numpy, one time step after the other, written from the formulas.

What a GRU shares with it, `tests.support.reference_gru` takes from here.
"""

import functools

import numpy as np
from keras import ops

from tests.support import reference

EPSILON, MOMENTUM = 1e-5, 0.9  # of every name that `keras_norms.get` knows
# Which statistics of one step each norm uses; "square" is the mean square alone.
STATISTICS = {
    "none": (),
    "ln": ("layer",),
    "gn": ("group",),
    "rms": ("square",),
    "bn": ("batch",),
    "sn": ("layer", "batch"),
    "sn(statistics=('layer', 'group'))": ("layer", "group"),
    "wn": (),
    "wn_mobn": ("batch mean",),
}
SPECS = tuple(STATISTICS)
BATCH = tuple(spec for spec in SPECS if any("batch" in kind for kind in STATISTICS[spec]))
PER_SAMPLE = tuple(spec for spec in SPECS if spec not in BATCH)


def variables(layer):
    """`{name: variable}`, as "kernel", "gain", "input_norm/gamma", "recurrent_norm_i/gamma"."""
    cell = getattr(layer, "cell", layer)
    own = cell.kernel, cell.recurrent_kernel, cell.bias, layer.gain, layer.recurrent_gain
    found = {v.name: v for v in own if v is not None}
    for norm in (*layer.input_norms, *layer.recurrent_norms, *layer.cell_norms):
        prefix = norm.name.removeprefix(f"{layer.name}_")
        found.update({f"{prefix}/{v.name}": v for v in norm.variables})
    return found


def values(layer):
    """What `variables` hold, in float64."""
    return {n: np.asarray(ops.convert_to_numpy(v), "float64") for n, v in variables(layer).items()}


def expected(layer, x, mask=None, training=False, state=None, first_step=0, weights=None):
    """What `layer` should do, from its arguments, its weights and a named norm.

    Args:
        layer: a built `NormalizedLSTM` with norm= one of `SPECS`.
        x: `(batch, time, features)`.
        mask: None, or `(batch, time)`.
        training: whether to use batch statistics.
        state: `[h, c]`, zeros by default.
        first_step: the number of the first step.
        weights: as from `values`, by default the layer's.

    Returns:
        `(outputs, [h, c], moving)`: the outputs of all steps, the last state, and the moving
        statistics after the call as `values` names them.
    """

    def advance(x, u, states, bias, normalize):
        i, f, g, o = np.split(x + u + bias, 4, axis=-1)
        c = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
        return [sigmoid(o) * np.tanh(normalize("cell", c)), c]

    gates = {f"_{gate}": 1 for gate in "ifco"} if layer.per_gate else {"": 4}
    return run(layer, gates, advance, 2, x, mask, training, state, first_step, weights)


def run(layer, gates, advance, count, x, mask, training, state, first_step, weights):
    """What `expected` returns, for any recurrent layer.

    Args:
        layer: as the arguments that are not listed here, of `expected`.
        gates: `{end of the name of a contribution's norm: number of gates that it normalizes}`.
        advance: function of both contributions, the states, the bias, and a function that
            normalizes a further contribution; it returns the states after one step.
        count: the number of states.
    """
    w = values(layer) if weights is None else weights
    kinds, units = STATISTICS[layer.norm.spec], layer.units
    x = np.asarray(x, "float64")
    batch, steps, _ = x.shape
    valid = np.ones((batch, steps), bool) if mask is None else np.asarray(mask, bool)
    if layer.go_backwards:
        x, valid = x[:, ::-1], valid[:, ::-1]
    states = np.zeros((count, batch, units)) if state is None else np.array(state, "float64")
    output, outputs = np.zeros((batch, units)), []
    seen = {}  # {norm: one row of (mean, variance, count) for each step}

    def normalize(contribution, z, step):
        ends = {"": 1} if contribution == "cell" else gates
        borders = units * np.cumsum(list(ends.values()))[:-1]
        parts = zip(ends, np.split(z, borders, axis=-1), strict=True)
        return np.concatenate([one(f"{contribution}_norm{end}", z, step) for end, z in parts], -1)

    def one(name, z, step):
        own = {key.removeprefix(f"{name}/"): w[key] for key in w if key.startswith(f"{name}/")}
        if not kinds or (kinds == ("batch mean",) and name == "cell_norm"):
            return z
        y = _standardize(z, valid[:, step], own, kinds, training, first_step + step)
        if training and "moving_mean" in own:
            sample = z[valid[:, step]]
            row = (sample.mean(0), sample.var(0), len(sample)) if len(sample) else (0, 1, 0)
            seen.setdefault(name, []).append(row)
        return own.get("gamma", own.get("scale", 1)) * y + own.get("beta", 0)

    kernel, recurrent_kernel = w["kernel"], w["recurrent_kernel"]
    if "gain" in w:
        kernel = w["gain"] * kernel / np.sqrt((kernel**2).sum(0))
    if "recurrent_gain" in w:
        squares = (recurrent_kernel**2).sum(0)
        recurrent_kernel = w["recurrent_gain"] * recurrent_kernel / np.sqrt(squares)
    for step in range(steps):
        contributions = (
            normalize("input", x[:, step] @ kernel, step),
            normalize("recurrent", states[0] @ recurrent_kernel, step),
        )
        further = functools.partial(normalize, step=step)
        new = advance(*contributions, states, w.get("bias", 0), further)
        here = valid[:, step, None]
        output = np.where(here, new[0], 0 if layer.zero_output_for_mask else output)
        states = [np.where(here, *pair) for pair in zip(new, states, strict=True)]
        outputs.append(output)
    moving = {key: value for key, value in w.items() if "/moving_" in key}
    for name, rows in seen.items():
        moving |= moved(moving, name, rows, first_step)
    return np.stack(outputs, 1), states, moving


def moved(moving, name, rows, first_step=0, momentum=MOMENTUM):
    """The moving statistics of one norm after `rows` of (mean, variance, count) for each step."""
    new = {key: value.copy() for key, value in moving.items() if key.startswith(f"{name}/")}
    keys = [key for key in new if key.endswith(("_mean", "_variance"))]
    limit = len(new[f"{name}/moving_mean"])
    for row in range(limit):
        here = [r for t, r in enumerate(rows, first_step) if min(t, limit - 1) == row and r[2]]
        if here:
            for key in keys:
                kind = key.endswith("variance")
                batch = np.average([r[kind] for r in here], 0, weights=[r[2] for r in here])
                new[key][row] = momentum * new[key][row] + (1 - momentum) * batch
            new[f"{name}/moving_steps"] = np.maximum(new[f"{name}/moving_steps"], row + 1)
    return new


def _standardize(z, valid, own, kinds, training, step):
    """`z` of one step, by the statistics that `kinds` names."""
    if kinds == ("square",):
        return z / np.sqrt((z**2).mean(-1, keepdims=True) + EPSILON)

    def moments(kind):
        if kind == "layer":
            return z.mean(-1, keepdims=True), z.var(-1, keepdims=True)
        if kind == "group":
            groups = z.reshape(len(z), reference.auto_groups(z.shape[-1]), -1)
            both = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
            return [np.broadcast_to(part, groups.shape).reshape(z.shape) for part in both]
        if training:
            sample = z[valid]
            return (sample.mean(0), sample.var(0)) if len(sample) else (0, 1)
        row = min(step, max(int(own["moving_steps"]), 1) - 1)
        return own["moving_mean"][row], own.get("moving_variance", own["moving_mean"])[row]

    if kinds == ("batch mean",):
        return z - moments("batch")[0]
    means, variances = zip(*map(moments, kinds), strict=True)
    shares = [reference.softmax(own.get(f"{n}_logits", [0.0])) for n in ("mean", "variance")]
    mean = sum(share * m for share, m in zip(shares[0], means, strict=True))
    variance = sum(share * v for share, v in zip(shares[1], variances, strict=True))
    return (z - mean) / np.sqrt(variance + EPSILON)


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2
