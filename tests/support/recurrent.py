"""Recurrent layers with norms: how tests make, run and compare them."""

import json
import pickle
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norms
from tests.support.norms import BACKEND, DTYPE, assert_close
from tests.support.reference_lstm import values, variables
from tests.support.running import compiled, constants, grad, tensor, to_numpy

UNITS = 8
SHAPE = (4, 6, 3)
KINDS = ("ln", "gn", "rms", "bn", "sn", "wn", "wn_mobn")  # one norm of each kind
SPATIAL = ("in", "bin", "sn(statistics=('instance',))")
steps = np.arange(SHAPE[1])
MASKS = {
    "no mask": None,
    "right": steps < np.array([[5], [4], [1], [3]]),  # no sequence has the last step
    "left": steps >= np.array([[1], [2], [5], [3]]),
    "holes": (steps + np.array([[0], [1], [2], [3]])) % 3 > 0,
    "empty": steps < np.array([[6], [0], [2], [6]]),
}
X = np.random.default_rng(0).normal(1, 2, (12, 6, 3)).astype("float32")
X[::3, 4:] = 0  # padding
CASES = {
    "states": {},
    "gates": {"per_gate": True, "use_bias": False},
    "backwards": {"go_backwards": True},
    "zeros": {"zero_output_for_mask": True},
    "few steps": {"max_steps": 3},
}
# Arguments with which a layer does what Keras's does.
OPTIONS = {
    "plain": {},
    "last": {"return_sequences": False},
    "backwards": {"go_backwards": True},
    "unroll": {"unroll": True},
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "no bias": {"use_bias": False},
    "zeros": {"zero_output_for_mask": True},
    "dropout": {"dropout": 0.4, "seed": 1},
    "recurrent dropout": {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
}


def but(values, *default, ids=None):
    """Test parameters; those not in `default` are marked slow."""
    return [
        pytest.param(v, id=ids[i] if ids else None, marks=[] if v in default else pytest.mark.slow)
        for i, v in enumerate(values)
    ]


class Kind(NamedTuple):
    """A recurrent layer: its class, its cell's, Keras's, its states, and what it should do."""

    layer: type
    cell: type
    keras: type
    states: int
    expected: Callable

    def make(self, spec, rng=None, **options):
        """A built layer, with weights that `rng` draws."""
        options = {"max_steps": 10, "return_sequences": True, "return_state": True, **options}
        layer = self.layer(UNITS, norm=spec, **{"dtype": DTYPE, "name": "rnn", **options})
        layer.build(SHAPE)
        return layer if rng is None else randomize(layer, rng)

    def copy(self, layer, spec, **options):
        """A layer with other options and the weights of `layer`."""
        copy = self.make(spec, **options)
        pairs = zip(variables(copy).values(), variables(layer).values(), strict=True)
        for mine, other in pairs:
            mine.assign(other)
        return copy

    def beside_keras(self, spec, options, rng):
        """Our layer and Keras's, with the same weights and seeds."""
        options = {"return_state": True, "return_sequences": True, **options}
        ours = self.make(spec, **options)
        theirs = self.keras(UNITS, dtype=DTYPE, **options)
        theirs.build(SHAPE)
        for weight in ours.cell.trainable_variables:
            weight.assign(rng.normal(0, 0.7, weight.shape))
        for name in ("", "recurrent_"):
            gain, kernel = getattr(ours, f"{name}gain"), getattr(ours.cell, f"{name}kernel")
            if gain is not None:
                gain.assign(ops.sqrt(ops.sum(ops.square(kernel), 0)))
        theirs.cell.set_weights(ours.cell.get_weights())
        return ours, theirs

    def zeros(self):
        return np.zeros((self.states, SHAPE[0], UNITS))

    def draws(self, rng):
        """Inputs, initial states, and the weights of outputs and states in a loss."""
        x, state = rng.normal(1, 2, SHAPE), rng.normal(0, 1, self.zeros().shape)
        dy = [rng.normal(0, 1, (*SHAPE[:2], UNITS)), *rng.normal(0, 1, state.shape)]
        return x, state, dy

    def within(self, model):
        """The layers of this kind in a model."""
        found = keras_norms.model_layers.named_layers(model).values()
        return [layer for layer in found if isinstance(layer, self.layer)]

    def check(self, layer, x, mask=None, state=None):
        """Inference, then training, against the reference; moving statistics too."""
        for training in (False, True):
            y, last, moving = self.expected(layer, x, mask, training, state)
            same(call(layer, x, training, mask, state), [y, *last])
            after = values(layer)
            same({name: after[name] for name in moving}, moving)
            assert training or all((after[name] == moving[name]).all() for name in moving)

    def check_gradients(self, layer, mask, rng):
        """All gradients against differences of the reference, each along one random direction."""
        x, state, dy = self.draws(rng)
        actual, weights = slopes(layer, x, dy, True, mask, state), values(layer)
        starts = dict(zip("hc", state, strict=False))
        assert set(actual) == {"x", *starts} | {
            name for name in weights if "/moving_" not in name
        }  # every weight has a gradient

        def loss(name, moved):
            at = {**weights, "x": x, **starts}
            at[name] = at[name] + moved
            first = [at.pop(key) for key in starts]
            y, last, _ = self.expected(layer, at.pop("x"), mask, True, first, weights=at)
            return sum(np.sum(one * two) for one, two in zip([y, *last], dy, strict=True))

        for name, slope in actual.items():
            direction = rng.normal(0, 1, slope.shape)
            one, two, minus_one, minus_two = (
                loss(name, count * 1e-5 * direction) for count in (1, 2, -1, -2)
            )
            numeric = (8 * (one - minus_one) - (two - minus_two)) / 12e-5
            assert_close(np.sum(slope * direction), numeric, 1e-6)
            assert np.abs(slope).max() > 1e-4
            if mask is not None and name == "x":
                assert not slope[~mask].any()

    def check_loop(self, spec, training, mask, rng):
        """The loop and its unrolled form: outputs, moving statistics and all gradients."""
        loop = self.make(spec, rng)
        unrolled = self.copy(loop, spec, unroll=True)
        x, state, dy = self.draws(rng)
        arguments = training, mask, state
        same(slopes(loop, x, dy, *arguments), slopes(unrolled, x, dy, *arguments))
        same(call(loop, x, *arguments), call(unrolled, x, *arguments))
        same(values(loop), values(unrolled))

    def check_truncated(self, spec, training, rng):
        """The longest sequence has four steps; padding after them changes nothing."""
        x, state, _ = self.draws(rng)
        mask = steps < np.array([[4], [2], [1], [3]])
        results = []
        for length in (6, 4):
            layer = self.make(spec, np.random.default_rng(1))
            y, *last = call(layer, x[:, :length], training, mask[:, :length], state)
            results.append([np.where(mask[:, :4, None], y[:, :4], 0), *last, values(layer)])
        same(*results)

    def check_padding(self, spec, training, rng):
        """NaN in padding reaches neither outputs nor statistics nor gradients."""
        x, state, dy = self.draws(rng)
        mask = MASKS["holes"]
        results = []
        for padding in (x, np.where(mask[..., None], x, np.nan)):
            layer = self.make(spec, np.random.default_rng(1))
            results.append([*call(layer, padding, training, mask, state), values(layer)])
            if spec != "none":  # Keras's loop does not promise this
                results[-1].append(slopes(layer, padding, dy, training, mask, state))
        same(*results)

    def check_stateful(self, spec, rng):
        """Calls keep states and step numbers, in training and inference, until a reset."""
        layer = self.make(spec, rng, stateful=True)
        state, first = self.zeros(), 0
        for training in (True, False, True, False):
            x, _, _ = self.draws(rng)
            y, last, moving = self.expected(layer, x, None, training, state, first)
            same(call(layer, x, training), [y, *last])
            after = values(layer)
            same({name: after[name] for name in moving}, moving)
            state, first = last, first + 6
            if first == 12:
                layer.reset_state()
                state, first = self.zeros(), 0

    def check_configuration(self, cls, spec):
        """A config is JSON, the same before and after build, and makes an equal layer."""
        options = {"per_gate": True, "use_bias": False, "dtype": "mixed_float16", "name": "mine"}
        shape = (2, 3)
        if cls is self.layer:
            options |= {"max_steps": 7, "gamma_initializer": "ones", "go_backwards": True}
            shape = (2, 6, 3)
        elif keras_norms.get(spec).has_batch_statistics:
            pytest.skip("no norm of a cell")
        layer = cls(UNITS, norm=spec, **options)
        serialized = json.dumps(layer.get_config())
        layer.build(shape)
        assert json.dumps(layer.get_config()) == serialized
        other = cls.from_config(pickle.loads(pickle.dumps(json.loads(serialized))))
        assert json.dumps(other.get_config()) == serialized
        assert other.per_gate and other.norm.use_bias == layer.norm.use_bias
        assert getattr(other, "max_steps", 7) == 7
        other.build(shape)
        assert [(v.path, v.shape, v.dtype) for v in other.weights] == [
            (v.path, v.shape, v.dtype) for v in layer.weights
        ]
        pairs = zip(layer.recurrent_norms, other.recurrent_norms, strict=True)
        for one, two in [*pairs, *zip(layer.cell_norms, other.cell_norms, strict=True)]:
            assert type(one) is type(two) and one.get_config() == two.get_config()
            assert one.compute_dtype == "float16"

    def check_files(self, spec, rng, folder):
        """Files of models and of weights are exact, in both directions of Bidirectional too."""

        def net():
            inputs = keras.Input((None, 3))
            options = {"norm": spec, "per_gate": spec == "bn", "max_steps": 4}
            both = layers.Bidirectional(self.layer(UNITS, **options, name="rnn"), name="both")
            one = self.layer(UNITS, return_sequences=True, **options, name="one")
            return keras.Model(inputs, both(one(inputs)))

        model, x = net(), rng.normal(1, 2, SHAPE).astype("float32")
        names = [w.path for w in model.weights]
        assert len(set(names)) == len(names) and len(self.within(model)) == 3
        for layer in self.within(model):
            randomize(layer, rng)
        y = call(model, x)
        model.save(folder / "model.keras")
        model.save_weights(folder / "model.weights.h5")
        fresh = net()
        fresh.load_weights(folder / "model.weights.h5")
        for other in (keras.models.load_model(folder / "model.keras"), fresh):
            np.testing.assert_array_equal(call(other, x), y)
            for one, two in zip(self.within(model), self.within(other), strict=True):
                same(values(one), values(two), 0)

    def check_cell(self, spec, options, rng):
        """A cell in `keras.layers.RNN` equals the layer."""
        layer = self.make(spec, rng, seed=2, **options)
        cell = self.cell(UNITS, norm=spec, dtype=DTYPE, seed=2, name="rnn", **options)
        wrapped = layers.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
        wrapped.build(SHAPE)
        for name, variable in variables(cell).items():
            variable.assign(variables(layer)[name])
        x, state, _ = self.draws(rng)
        for training in (False, True):
            same(call(wrapped, x, training, None, state), call(layer, x, training, None, state))
            arguments = training, MASKS["right"]
            same(call(wrapped, x, *arguments), call(layer, x, *arguments))


def randomize(layer, rng):
    """Gives every weight a different value, so that tests see when two are confused."""
    draw = {
        "kernel": lambda shape: rng.normal(0, 0.7, shape),
        "recurrent_kernel": lambda shape: rng.normal(0, 0.7, shape),
        "bias": lambda shape: rng.normal(0, 1, shape),
        "gain": lambda shape: rng.uniform(0.5, 2, shape),
        "recurrent_gain": lambda shape: rng.uniform(0.5, 2, shape),
        "gamma": lambda shape: rng.normal(1, 0.3, shape),
        "scale": lambda shape: rng.normal(1, 0.3, shape),
        "beta": lambda shape: rng.normal(0, 1, shape),
        "mean_logits": lambda shape: rng.normal(0, 1, shape),
        "variance_logits": lambda shape: rng.normal(0, 1, shape),
        "moving_mean": lambda shape: rng.normal(0, 1, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 2, shape),
        "moving_steps": lambda shape: min(4, layer.max_steps),
    }
    for variable in variables(layer).values():
        variable.assign(draw[variable.name](tuple(variable.shape)))
    return layer


def call(layer, x, training=False, mask=None, state=None):
    """`layer(x, ...)` as arrays; on JAX through `jax.jit`, as in `running.forward`."""
    kwargs = {} if mask is None else {"mask": tensor(mask)}
    if state is not None:
        kwargs["initial_state"] = [tensor(part) for part in state]
    if BACKEND != "jax" or getattr(layer, "stateful", False):
        results = layer(tensor(x), training=training, **kwargs)
    else:

        def pure(trainable, non_trainable, x, kwargs):
            return layer.stateless_call(trainable, non_trainable, x, training=training, **kwargs)

        own = [v.value for v in layer.trainable_variables]
        states = [v.value for v in layer.non_trainable_variables]
        results, updates = compiled(pure)(own, states, tensor(x), kwargs)
        for variable, update in zip(layer.non_trainable_variables, updates, strict=True):
            variable.assign(update)
    return keras.tree.map_structure(to_numpy, results)


def slopes(layer, x, dy, training=True, mask=None, state=None):
    """Gradients of `sum(dy * (outputs and states))`: `{"x": ..., "h": ..., name: ...}`."""
    kwargs = {} if mask is None else {"mask": tensor(mask)}
    states = constants(layer.non_trainable_variables)
    names = {id(v): name for name, v in variables(layer).items()}

    def loss(x, *tensors):
        first, weights = list(tensors[: len(state)]), tensors[len(state) :]
        y, _ = layer.stateless_call(
            weights, states, x, initial_state=first, training=training, **kwargs
        )
        return sum(ops.sum(one * tensor(two)) for one, two in zip(y, dy, strict=True))

    inputs = [tensor(x), *(tensor(part) for part in state)]
    results = compiled(grad(loss))(*inputs, *constants(layer.trainable_variables))
    keys = ["x", *"hc"[: len(state)], *(names[id(v)] for v in layer.trainable_variables)]
    return {key: to_numpy(slope) for key, slope in zip(keys, results, strict=True)}


def same(ours, theirs, tolerance=1e-9):
    """Equal outputs and states, or values by name."""
    for one, two in zip(*map(keras.tree.flatten, (ours, theirs)), strict=True):
        assert_close(one, two, tolerance)
