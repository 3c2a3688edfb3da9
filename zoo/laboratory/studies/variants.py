"""Do the choices of switches depend on how a net is trained?"""

from collections.abc import Mapping
from typing import Any

from keras_norms.analysis import LABELS
from zoo.laboratory.claims.variants import BASE, CLAIMS, SMALL, VARIANTS
from zoo.laboratory.shares import Bar, Shares
from zoo.laboratory.studies.preferences import share_lists
from zoo.laboratory.study import Rows, Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train, preferences
from zoo.training import TrainOptions

# Logits of deviation 1: one switch in three starts with more than half of the weight.
RANDOM = {"class_name": "RandomNormal", "config": {"stddev": 1.0}}
# {variant: the samples that share statistics, other arguments of the norm, options}
CHANGES: Mapping[str, tuple[int, str, dict[str, Any]]] = {
    BASE: (32, "", {}),
    SMALL: (2, "", {}),
    "random switches": (32, f", logits_initializer={RANDOM}", {}),
    "rate in steps": (32, "", {"schedule": "step"}),
    "Adam": (32, "", {"optimizer": "adam", "learning_rate": 0.002}),
}


def plan(**options: Any) -> list[Run]:
    """One net, trained in several ways."""
    runs = []
    for variant, (samples, arguments, changes) in CHANGES.items():
        norm = f"sn(ghost_batch_size={samples}{arguments})"
        settings = TrainOptions(model="resnet20", norm=norm, **{**options, **changes})
        name = variant.replace(" ", "-")
        runs.append(Run(name, {"variant": variant}, Train(settings, (preferences,))))
    return runs


def by_variant(rows: Rows) -> dict[str, dict[str, Bar]]:
    """The panels of the figure: the shares in the net by variant, of mean and variance."""
    rows = Rows(row for row in rows if "importance" in row)
    return {
        kind: {
            variant: share_lists(rows.where(variant=variant), kind, "net")
            for variant in rows.values("variant")
        }
        for kind in (("mean", "variance") if rows else ())
    }


_CIFAR = dict(dataset="cifar10", batch_size=64, learning_rate=0.4, l2=5e-5, test_examples=5_000)
STUDY = Study(
    question="Do the choices of switches depend on how a net is trained?",
    about=(
        "A ResNet-20 with Switchable Norm learns CIFAR-10 as in the study preferences, with "
        "statistics of 32 samples. One thing is changed at a time: switches start at random, and "
        "then kernels start otherwise too; the rate falls in steps and not along a cosine; Adam "
        "takes the place of SGD. How far the choices move is compared with how far they move if "
        "statistics are those of 2 samples: "
        f"{', '.join(VARIANTS)}, and {SMALL}."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                dataset="digits",
                train_examples=64,
                test_examples=32,
                epochs=1,
                batch_size=32,
                width=0.25,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(_CIFAR | dict(train_examples=4_000, epochs=8, width=0.5), seeds=(0, 1, 2)),
        "evidence": Scale(_CIFAR | dict(train_examples=10_000, epochs=12), seeds=(0, 1, 2)),
        "full": Scale(dict(dataset="cifar10", epochs=200, batch_size=128), seeds=(0, 1, 2, 3, 4)),
    },
    claims=CLAIMS,
    tables=(
        *(
            Table(
                f"Importance of {LABELS[s]} in the net", f"both_net_{s}", "variant", form="{:.3f}"
            )
            for s in ("batch", "layer", "instance")
        ),
        Table("Test accuracy", "accuracy", "variant"),
    ),
    figures={
        "variants": Shares(
            "What the switches of one net chose, by how it was trained. Whiskers are one standard "
            "deviation over seeds.",
            by_variant,
            columns=1,
        )
    },
    calibration=(100, 101),
)
