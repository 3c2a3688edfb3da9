"""Which is the best trade of cost and accuracy?"""

import statistics

from zoo.laboratory.figures import Scatter
from zoo.laboratory.study import Claim, Run, Scale, Study, Table
from zoo.laboratory.tasks.cost import LayerParameters, Profile
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

KERAS_LN = "1607.06450; ARTICLES 16"


def plan(models, rounds, memory=True):
    """Each model with each norm: trained, and timed with all of them in turn."""
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


def parameters_of(layer, input):
    """An effect's part: the trainable parameters of a layer."""
    return lambda rows: rows.mean("trainable_parameters", layer=layer, input=input)


def equal(one, other, factor=1):
    """An effect: 0 less the size of the difference of one number to so many times another."""

    def effect(rows):
        a, b = one(rows), other(rows)
        return None if a is None or b is None else -abs(a - factor * b)

    return effect


def time_beyond(norm, than, kind="training"):
    """An effect: how much longer a step takes than with another norm, mean over models."""

    def effect(rows):
        models = [model for model in rows.values("model") if model != LAYER]
        times = [
            [rows.mean(f"{kind}_ms", model=model, norm=name) for name in (norm, than)]
            for model in models
        ]
        if not times or any(None in pair for pair in times):
            return None
        return statistics.fmean(a / b for a, b in times) - 1

    return effect


MAPS, VECTORS = "(None, 10, 10, 5)", "(20, 5, 10)"
LAYER, CONV, LSTM, TRANSFORMER = "a layer", "conv6", "LSTM", "Transformer"
IMAGES = ("none", "bn", "ln", "gn", "in", "bin", "sn", "wn_mobn")
SEQUENCES = ("none", "ln", "rms", "bn", "sn")
STUDY = Study(
    question="Which norm is the best trade of cost and accuracy?",
    about=(
        "Each model with each norm, trained for accuracy, and timed: forward, backward and "
        "update in a graph without XLA, inference likewise, all norms in turn within each "
        "round. Memory is how far one training step raises the resident memory of a fresh "
        "process at its peak. Times are ratios to the same model without a norm."
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
            "trainable parameters, 0 less the difference to 100 times those of BN",
            -1,
            "{:+,.0f}",
            "A property, not a finding.",
        ),
        Claim(
            "b",
            "LN with a gamma and beta for every channel has as many parameters as BN",
            KERAS_LN,
            equal(parameters_of("ln", MAPS), parameters_of("bn", MAPS)),
            "trainable parameters, 0 less the difference to those of BN",
            -1,
            "{:+,.0f}",
            "A property, not a finding.",
        ),
        Claim(
            "c",
            "SN costs more time than BN",
            "1806.10779, section 3.3",
            time_beyond("sn", "bn"),
            "time of a training step, SN over BN, less 1, mean over models",
            0.05,
            "{:+.0%}",
        ),
        Claim(
            "d",
            "LN costs more time than BN at inference, where BN's statistics are constants",
            "1502.03167, section 3.1",
            time_beyond("ln", "bn", "inference"),
            "time of an inference step, LN over BN, less 1, mean over models",
            0.05,
            "{:+.0%}",
        ),
    ),
    tables=(
        *(
            Table(title, measure, "norm", "model", form=form)
            for title, measure, form in (
                ("Time of a training step, over no norm", "training_ratio", "{:.2f}"),
                ("Time of inference, over no norm", "inference_ratio", "{:.2f}"),
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
            "Accuracy against cost: best is low and left. Bars are the spread over seeds.",
            x="training_ratio",
            y="error",
            by="norm",
            panels="model",
            labels=("training step, no norm = 1", "test error"),
            percent=True,
        ),
        "inference": Scatter(
            "The same with the time of inference.",
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
