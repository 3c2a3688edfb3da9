"""`NormalizedGRU` in float64 numpy, one time step after the other, written from the formulas."""

import numpy as np

from tests.support.reference_lstm import run, sigmoid


def expected(layer, x, mask=None, training=False, state=None, first_step=0, weights=None):
    """What a built `NormalizedGRU` should do, as `reference_lstm.expected` says it of the LSTM."""

    def advance(x, u, states, bias, normalize):
        of_input, of_state = bias if np.ndim(bias) else (0, 0)
        x_z, x_r, x_h = np.split(x + of_input, 3, axis=-1)
        u_z, u_r, u_h = np.split(u + of_state, 3, axis=-1)
        z, r = sigmoid(x_z + u_z), sigmoid(x_r + u_r)
        return [z * states[0] + (1 - z) * np.tanh(x_h + r * u_h)]

    gates = {"_z": 1, "_r": 1, "_h": 1} if layer.per_gate else {"_zr": 2, "_h": 1}
    return run(layer, gates, advance, 1, x, mask, training, state, first_step, weights)
