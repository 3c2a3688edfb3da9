"""A small model with its data, and results that are made and not measured."""

import keras
import numpy as np
from keras import layers


def points(count=96, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype("float32")
    return x, (x.sum(1) > 0).astype("int32")


def mlp(optimizer="adam", norm=layers.BatchNormalization, **compiled):
    hidden = [
        layers.Dense(8, use_bias=False),
        norm(name="norm"),
        layers.ReLU(),
        layers.Dropout(0.1),
    ]
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2)], name="mlp")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, **{"loss": loss, "metrics": ["accuracy"]} | compiled)
    return model


def state(model):
    """All that a model is: weights, the optimizer's state, configs."""
    variables = [*model.variables, *model.optimizer.variables]
    arrays = [keras.ops.convert_to_numpy(variable) for variable in variables]
    return arrays, model.get_config(), model.get_compile_config()


def run(norm, size, seed, value, again=None, failed=None):
    """A run whose loss halves, and whose metric ends at a value."""
    curve = [
        {"step": step, "loss": loss, "accuracy": accuracy}
        for step, loss, accuracy in ((0, 1.0, 0.5), (50, 0.7, value - 0.1), (100, 0.5, value))
    ]
    found = {"norm": norm, "batch_size": size, "seed": seed, "failed": failed, "shares": {}}
    again = None if again is None else {"loss": 0.5, "accuracy": again}
    return found | {"curve": [] if failed else curve, "recalibrated": again}


def cost(ms, ratio, folded=None):
    def of(ms, ratio):
        return {"ms": ms, "ratio": ratio, "low": 0.95 * ratio, "high": 1.05 * ratio}

    return {
        "step": of(ms, ratio),
        "inference": of(ms / 3, ratio),
        "folded": folded and of(folded, ratio),
        "step_ms": {"32": ms, "4": ms / 4},
        "parameters": 1234,
        "memory": 5.5,
        "compile": 1.0,
    }


def facts(values, **other):
    """The facts of a comparison with `{batch size: {norm: a value for each seed}}`."""
    norms = list(next(iter(values.values())))
    made = {
        "model": "mlp",
        "function": False,
        "samples": [1000, 500],
        "norms": norms,
        "batch_sizes": list(values),
        "steps": 100,
        "monitor": "accuracy",
        "higher": True,
        "ghost": False,
        "baseline": {"what": "the best constant prediction", "value": 0.52},
        "costs": {norm: cost(10.0 + i, 1 + i / 10) for i, norm in enumerate(norms)},
        "replicas": {},
        "switches": None,
        "runs": [
            run(norm, size, seed, value)
            for size, of_norms in values.items()
            for norm, of_seeds in of_norms.items()
            for seed, value in enumerate(of_seeds)
        ],
        "missing": 0,
        "options": {},
        "seconds": 60.0,
        "date": "2026-11-28",
        "machine": "2 x x86_64",
        "versions": {"keras": "3.15.1"},
    }
    return made | other


CLEAR = {
    32: {"bn": [0.80, 0.81, 0.80], "gn": [0.90, 0.91, 0.901], "wn": [0.70, 0.712, 0.70]},
    4: {"bn": [0.60, 0.61, 0.60], "gn": [0.899, 0.91, 0.90], "wn": [0.70, 0.711, 0.702]},
}
ALIKE = {32: {"bn": [0.80, 0.85, 0.78], "gn": [0.82, 0.80, 0.81]}}
