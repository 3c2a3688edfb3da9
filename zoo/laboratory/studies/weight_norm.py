"""Weight norm and its parts, on the net and with the recipe of its paper."""

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Run, Scale, Study, Table, gap, subtract
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

PAPER = "1602.07868, section 5.1"
FEW = "At the scale of 2 cores there are 120 steps, of the paper's 100,000."


def plan(norms=("none", "wn", "mobn", "wn_mobn", "bn"), **options):
    """ConvPool-CNN-C with each norm, and with weight norm as it is drawn, not from the data."""

    def run(norm, data_init=None):
        suffix = "" if data_init is None else ", drawn"
        settings = TrainOptions(model="convpool", norm=norm, data_init=data_init, **options)
        factors = {"norm": f"{norm}{suffix}"}
        return Run(f"{norm}{'-drawn' if suffix else ''}", factors, Train(settings))

    return [*map(run, norms), run("wn", data_init=False), run("wn_mobn", data_init=False)]


def better(norm, than):
    """An effect: by how much the test error of a norm is less than another's."""
    return gap("error", {"norm": than}, {"norm": norm})


def faster(norm, than):
    """An effect: by how much less the training loss of a norm is, over the first half."""
    return lambda rows: subtract(*(rows.early("loss", 1 / 2, norm=name) for name in (than, norm)))


STUDY = Study(
    question="What does weight norm give, and which of its parts gives it?",
    about=(
        "ConvPool-CNN-C with Adam, as in the paper. Weight norm is initialized from the first "
        "batch, as there, and as drawn for comparison. At the scale of 2 cores: a quarter of the "
        "width, a subset, few epochs, and a higher rate."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                dataset="digits",
                width=0.05,
                train_examples=64,
                test_examples=32,
                batch_size=16,
                epochs=1,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                dataset="cifar10",
                width=0.25,
                train_examples=2000,
                test_examples=1000,
                batch_size=100,
                epochs=6,
                learning_rate=0.003,
            ),
            seeds=(0, 1, 2),
            minutes=7,
        ),
        "full": Scale(dict(dataset="cifar10", batch_size=100, epochs=200), seeds=(0, 1, 2, 3, 4)),
    },
    claims=(
        Claim(
            "a",
            "WN with mean-only BN beats the plain net",
            PAPER,
            better("wn_mobn", "none"),
            "test error, plain less WN + mean-only BN",
            0.0,
            "{:+.1%}",
            remark=FEW,
        ),
        Claim(
            "b",
            "WN with mean-only BN beats BN",
            PAPER + ", ARTICLES 5",
            better("wn_mobn", "bn"),
            "test error, BN less WN + mean-only BN",
            0.0,
            "{:+.1%}",
            remark=FEW,
        ),
        Claim(
            "c",
            "WN with mean-only BN beats WN alone",
            PAPER,
            better("wn_mobn", "wn"),
            "test error, WN less WN + mean-only BN",
            0.0,
            "{:+.1%}",
        ),
        Claim(
            "d",
            "WN with mean-only BN beats mean-only BN alone",
            PAPER,
            better("wn_mobn", "mobn"),
            "test error, mean-only BN less WN + mean-only BN",
            0.0,
            "{:+.1%}",
            remark=FEW,
        ),
        Claim(
            "e",
            "WN speeds up training",
            PAPER,
            faster("wn", "none"),
            "training loss over the first half, plain less WN",
            0.02,
            remark=FEW,
        ),
        Claim(
            "f",
            "Initialization from the data helps WN",
            "1602.07868, section 3",
            faster("wn", "wn, drawn"),
            "training loss over the first half, as drawn less from the data",
            0.02,
            remark="Then its loss is twice as high in the first epoch, and is not made up for. "
            + FEW,
        ),
    ),
    tables=(
        Table("Test error", "error", "norm"),
        Table("Test loss", "cross_entropy", "norm", form="{:.3f}"),
        Table(
            "Seconds of a training step (runs may share the machine)",
            "seconds_per_step",
            "norm",
            form="{:.3f}",
        ),
    ),
    figures={
        "loss": Curves(
            "Training loss.",
            lambda row: dict(enumerate(row["curves"]["loss"], 1)),
            by="norm",
            labels=("epoch", "training loss"),
        ),
    },
)
