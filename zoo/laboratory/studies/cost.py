"""Which is the best trade of cost and accuracy?"""

from collections.abc import Mapping
from typing import Any

from zoo.laboratory.claims import cost as claims
from zoo.laboratory.claims.cost import CONV, LSTM, TRANSFORMER
from zoo.laboratory.figures import Scatter
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.cost import LayerParameters, Profile
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

LAYER = "a layer"


def plan(models: Mapping[str, Mapping[str, Any]], rounds: int, memory: bool = True) -> list[Run]:
    """Trains each model with each norm, and times the norms of a model in turn."""
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
        "evidence": Scale(
            dict(
                models={
                    CONV: dict(
                        model="conv6",
                        norms=IMAGES,
                        shape=(32, 32, 3),
                        options=dict(
                            dataset="cifar10",
                            width=0.25,
                            train_examples=5000,  # 156 steps an epoch
                            test_examples=5000,
                            epochs=10,
                        ),
                    ),
                    LSTM: dict(
                        model="lstm",
                        norms=SEQUENCES,
                        shape=(8, 8),
                        options=dict(epochs=40, learning_rate=3e-3),  # 44 steps each
                    ),
                    TRANSFORMER: dict(
                        model="transformer",
                        norms=SEQUENCES,
                        shape=(8, 8),
                        options=dict(epochs=40),
                    ),
                },
                rounds=30,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(
                models={
                    CONV: dict(
                        model="conv6",
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
    claims=claims.CLAIMS,
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
