"""Which is the best trade of cost and accuracy?"""

import statistics
from collections.abc import Mapping
from typing import Any

from zoo.laboratory.figures import Scatter
from zoo.laboratory.study import Claim, Effect, Number, Rows, Run, Scale, Study, Table
from zoo.laboratory.tasks.cost import LayerParameters, Profile
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

KERAS_LN = "1607.06450; ARTICLES 16"


def plan(models: Mapping[str, Mapping[str, Any]], rounds: int, memory: bool = True) -> list[Run]:
    """Each model with each norm is trained; its norms are timed together."""
    runs = [Run("layers", {"model": LAYER}, LayerParameters())]
    for name, case in models.items():
        model, norms, shape, options = (case[k] for k in ("model", "norms", "shape", "options"))
        width = options.get("width", 1.0)
        task = Profile(model, norms, shape, width=width, rounds=rounds, memory=memory)
        runs.append(Run(f"{model}-profile", {"model": name}, task))
        for norm in norms:
            settings = TrainOptions(model=model, norm=norm, **options)
            runs.append(Run(f"{model}-{norm}", {"model": name, "norm": norm}, Train(settings)))
    return runs


def parameters_of(layer: str, input: str) -> Effect:
    """The trainable parameters of a layer, as a part of an effect."""
    return lambda rows: rows.mean("trainable_parameters", layer=layer, input=input)


def equal(one: Effect, other: Effect, factor: int = 1) -> Effect:
    """An effect: -|one - factor * other|, which is 0 if they are equal and negative if not."""

    def effect(rows: Rows) -> Number:
        a, b = one(rows), other(rows)
        return None if a is None or b is None else -abs(a - factor * b)

    return effect


def time_beyond(norm: str, than: str, kind: str = "training") -> Effect:
    """An effect: how much longer a step takes than with another norm, on average over models."""

    def effect(rows: Rows) -> Number:
        models = [model for model in rows.values("model") if model != LAYER]
        times = [
            (
                rows.mean(f"{kind}_ms", model=model, norm=norm),
                rows.mean(f"{kind}_ms", model=model, norm=than),
            )
            for model in models
        ]
        ratios = [own / other for own, other in times if own and other]
        return statistics.fmean(ratios) - 1 if ratios and len(ratios) == len(times) else None

    return effect


MAPS, VECTORS = "(None, 10, 10, 5)", "(20, 5, 10)"
LAYER, CONV, LSTM, TRANSFORMER = "a layer", "conv6", "LSTM", "Transformer"
IMAGES = ("none", "bn", "ln", "gn", "in", "bin", "sn", "wn_mobn")
SEQUENCES = ("none", "ln", "rms", "bn", "sn")
STUDY = Study(
    question="Which norm is the best trade of cost and accuracy?",
    about=(
        "Each model is trained with each norm, which gives its accuracy. Steps are timed in a "
        "graph without XLA, all norms in turn within each round. A training step is forward, "
        "backward and update. Times are ratios to the same model without a norm. Memory is how "
        "far one training step raises the resident memory of a fresh process at its peak."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                models={
                    CONV: dict(
                        model="conv6",
                        norms=("none", "bn"),
                        shape=(8, 8, 1),
                        options=dict(width=0.05, train_examples=64, test_examples=32, epochs=1),
                    )
                },
                rounds=2,
                memory=False,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                models={
                    CONV: dict(
                        model="conv6",
                        norms=IMAGES,
                        shape=(32, 32, 3),
                        options=dict(
                            dataset="cifar10",
                            width=0.25,
                            train_examples=1200,
                            test_examples=1000,
                            epochs=4,
                        ),
                    ),
                    LSTM: dict(
                        model="lstm",
                        norms=SEQUENCES,
                        shape=(8, 8),
                        options=dict(width=0.5, epochs=6, learning_rate=3e-3),
                    ),
                    TRANSFORMER: dict(
                        model="transformer",
                        norms=SEQUENCES,
                        shape=(8, 8),
                        options=dict(width=0.5, epochs=6),
                    ),
                },
                rounds=10,
            ),
            seeds=(0, 1, 2),
            minutes=25,
        ),
        "full": Scale(
            dict(
                models={
                    "ResNet-20": dict(
                        model="resnet20",
                        norms=IMAGES,
                        shape=(32, 32, 3),
                        options=dict(dataset="cifar10", epochs=100),
                    ),
                    LSTM: dict(
                        model="lstm",
                        norms=SEQUENCES,
                        shape=(28, 28),
                        options=dict(dataset="mnist", epochs=20),
                    ),
                    TRANSFORMER: dict(
                        model="transformer",
                        norms=SEQUENCES,
                        shape=(28, 28),
                        options=dict(dataset="mnist", epochs=20),
                    ),
                },
                rounds=100,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=(
        Claim(
            "a",
            "LN with a gamma and beta for every element of 5 maps of 10 x 10 has 1,000 parameters, "
            "100 times those of BN",
            KERAS_LN,
            equal(parameters_of("keras LN (1, 2, 3)", MAPS), parameters_of("bn", MAPS), 100),
            "minus the distance of the trainable parameters from 100 times those of BN",
            -1,
            "{:+,.0f}",
            "This is a property, not a finding.",
        ),
        Claim(
            "b",
            "LN with a gamma and beta for every channel has as many parameters as BN",
            KERAS_LN,
            equal(parameters_of("ln", MAPS), parameters_of("bn", MAPS)),
            "minus the distance of the trainable parameters from those of BN",
            -1,
            "{:+,.0f}",
            "This is a property, not a finding.",
        ),
        Claim(
            "c",
            "SN costs more time than BN",
            "1806.10779, section 3.3",
            time_beyond("sn", "bn"),
            "time of a training step, SN over BN, minus 1, averaged over models",
            0.05,
            "{:+.0%}",
        ),
        Claim(
            "d",
            "LN costs more time than BN at inference, where BN's statistics are constants",
            "1502.03167, section 3.1",
            time_beyond("ln", "bn", "inference"),
            "time of an inference step, LN over BN, minus 1, averaged over models",
            0.05,
            "{:+.0%}",
        ),
    ),
    tables=(
        *(
            Table(title, measure, "norm", "model", form=form)
            for title, measure, form in (
                ("Time of a training step, as a ratio to no norm", "training_ratio", "{:.2f}"),
                ("Time of an inference step, as a ratio to no norm", "inference_ratio", "{:.2f}"),
                ("Memory of a training step, MiB", "memory_mib", "{:.0f}"),
                ("Trainable parameters", "trainable_parameters", "{:,.0f}"),
                ("Test error", "error", "{:.1%}"),
            )
        ),
        Table(
            "Trainable parameters of a layer, by the shape of its input",
            "trainable_parameters",
            "layer",
            "input",
            form="{:,.0f}",
        ),
    ),
    figures={
        "plane": Scatter(
            "Error against the time of a training step: lower left is best. Bars are the spread "
            "over seeds.",
            x="training_ratio",
            y="error",
            by="norm",
            panels="model",
            labels=("training step, no norm = 1", "test error"),
            percent=True,
        ),
        "inference": Scatter(
            "Error against the time of inference: lower left is best. Bars are the spread "
            "over seeds.",
            x="inference_ratio",
            y="error",
            by="norm",
            panels="model",
            labels=("inference, no norm = 1", "test error"),
            percent=True,
        ),
    },
    timed=True,
)
