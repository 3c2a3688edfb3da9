"""Which norm for a model: `keras_norms.compare`."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_norms.arguments import positive
from keras_norms.optional import require
from keras_norms.registry import get
from keras_norms.selection import plan as planning
from keras_norms.selection.candidates import Candidates, Recipe
from keras_norms.selection.console import Console, quiet
from keras_norms.selection.constant import constant_metrics
from keras_norms.selection.costs import measure_costs
from keras_norms.selection.data import read
from keras_norms.selection.facts import facts_of
from keras_norms.selection.fingerprint import fingerprint
from keras_norms.selection.plan import Budget, OutOfTime, Plan, Run, Seconds
from keras_norms.selection.replicas import agreement
from keras_norms.selection.result import ComparedNorms
from keras_norms.selection.store import Store
from keras_norms.selection.training import POINTS, evaluate, recalibrated, train_and_measure

NEEDED = ("scipy", "rich", "markdown", "matplotlib", "tensorflow")
# Those of Switchable Norm for places without positions come second.
SWITCHES = ("sn", "sn(statistics=('layer', 'batch'))")


def compare(
    model: keras.Model | Callable[[str], keras.Model],
    train: Any,
    validation: Any,
    norms: Sequence[str] = ("bn", "gn", "sn"),
    batch_sizes: Sequence[int] | None = None,
    seeds: int = 3,
    steps: int | None = None,
    minutes: float | None = None,
    *,
    monitor: str | None = None,
    mode: str = "auto",
    ghost: bool = False,
    keep_weights: bool = False,
    configure_optimizer: bool = False,
    replicas: int = 1,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    verbose: bool = True,
) -> ComparedNorms:
    """Trains a model with several norms, and says which one suits it.

    Each norm is put in by `keras_norms.convert` with new weights. With each seed, all norms have
    the same other weights, the same order of samples, and copies of the same optimizer, loss and
    metrics. Weight norms are initialized from the first batch. The model itself does not change.

    Runs go seed by seed, so that a stop leaves the same seeds for all norms. A run that fails, as
    by a loss that is not finite, does not end the others. With a `folder`, complete runs are
    kept: after a kill, `resume=True` repeats none of them but the one in progress.

    Data is read once, into memory. Random changes of samples in a `tf.data.Dataset` are then the
    same in every epoch: put augmentation into the model, as layers.

    Args:
        model: a built and compiled model, as `keras_norms.convert` takes it; or a function of a
            norm, such as "gn", that returns a built and compiled model. What a function returns
            has the initial weights that it draws after the seed is set.
        train: arrays `(x, y)` or `(x, y, weights of samples)`, a `keras.utils.PyDataset`, or a
            `tf.data.Dataset` of batches that ends.
        validation: the same, for the metric that decides.
        norms: names, as for `keras_norms.get`. The first is the reference for costs, and has to
            learn. "none" takes norms away; "wn" takes them away and wraps the layers before them.
        batch_sizes: the learning rate of the model is meant for the first, and others multiply it
            by their ratio to the first. They see as many samples, in more or fewer steps. None:
            the size of the batches of `train`, 32 for arrays.
        seeds: how many times everything is repeated. At least 3 give verdicts.
        steps: the training steps at the first batch size. None: as many as fit into `minutes`.
        minutes: when to stop, with what there is. None: when all runs are complete.
        monitor: the metric that decides. None: the first that the model is compiled with, else
            its loss.
        mode: "max" if a larger value of it is better, "min" if a smaller one is; "auto" asks the
            metric, which knows if it is one of Keras.
        ghost: whether other batch sizes are those of ghost batches, slices of a batch of the first
            size that have statistics of their own. All sizes then take the same steps.
        keep_weights: whether to train on from the weights of the model, and not from new ones.
            Frozen weights are always kept.
        configure_optimizer: whether `keras_norms.configure_optimizer` exempts norms and biases
            from weight decay.
        replicas: 2 or more also measures how far so many replicas of `tf.distribute` are from one
            device.
        folder: where runs and results are written, or None.
        resume: whether to go on with the comparison in `folder`.
        verbose: whether to print the plan and the progress.

    Returns:
        A `ComparedNorms`.

    Raises:
        ValueError: before any training, if something cannot be compared. The message says why and
            what to change.
        ImportError: if a package of the extra `compare` is missing.

    Example:
        >>> import keras, keras_norms
        >>> x = keras.ops.convert_to_numpy(keras.random.normal((64, 4), seed=0))
        >>> y = (x.sum(1) > 0).astype("float32")
        >>> layers = [keras.layers.Dense(8), keras.layers.BatchNormalization()]
        >>> model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
        >>> model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
        >>> result = keras_norms.compare(
        ...     model, (x, y), (x, y), ("bn", "ln"), seeds=1, steps=20, verbose=False
        ... )
        >>> [len(ranking.places) for ranking in result.rankings]
        [2]
    """
    options = {
        "minutes": minutes,
        "ghost": ghost,
        "keep_weights": keep_weights,
        "configure_optimizer": configure_optimizer,
        "replicas": replicas,
    }
    budget = Budget(minutes)
    return Comparison(
        model, train, validation, norms, batch_sizes, seeds, steps, options, monitor, mode, budget
    ).run(replicas, folder, resume, verbose)


class Comparison:
    """A comparison in progress: arguments as those of `compare`, read and checked."""

    def __init__(
        self,
        model: Any,
        train: Any,
        validation: Any,
        norms: Sequence[str],
        batch_sizes: Sequence[int] | None,
        seeds: int,
        steps: int | None,
        options: dict[str, Any],
        monitor: str | None,
        mode: str,
        budget: Budget,
    ) -> None:
        require(*NEEDED, purpose="A comparison", extra="compare")
        self.budget, self.options = budget, options
        if steps is None and options["minutes"] is None:
            raise ValueError("Give `steps`, `minutes`, or both.")
        if options["minutes"] is not None and not options["minutes"] > 0:
            raise ValueError(f"`minutes` must be positive. Received: {options['minutes']}")
        self.norms = [_checked_name(norm) for norm in norms]
        if not self.norms or len(set(self.norms)) < len(self.norms):
            raise ValueError(f"`norms` must be names that differ. Received: {norms!r}")
        self.seeds = positive("seeds", seeds)
        self.steps = None if steps is None else positive("steps", steps)
        self.train, size = read(train, "train")
        self.validation, _ = read(validation, "validation")
        self.sizes = self._checked_sizes(batch_sizes or [size])
        recipe = Recipe(
            self.sizes[0],
            options["ghost"],
            options["keep_weights"],
            options["configure_optimizer"],
        )
        self.candidates = Candidates(model, self.train, recipe)
        self.candidates.check()
        self.mode = mode
        self.monitor = monitor or ""  # "" until the names of metrics are known

    def _checked_sizes(self, sizes: Sequence[int]) -> list[int]:
        sizes = [positive("batch_sizes", size) for size in sizes]
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"`batch_sizes` must differ. Received: {sizes}")
        if max(sizes) > self.train.count:
            raise ValueError(
                f"A batch size is above the {self.train.count} samples of `train`. Use smaller "
                f"`batch_sizes`. Received: {sizes}"
            )
        if self.options["ghost"] and any(sizes[0] % size for size in sizes):
            raise ValueError(
                "Ghost batches are slices of a batch: the first of `batch_sizes` must be a "
                f"multiple of the others. Received: {sizes}"
            )
        return sizes

    def run(
        self, replicas: int, folder: str | os.PathLike | None, resume: bool, verbose: bool
    ) -> ComparedNorms:
        """Does what is missing, and returns the result of all."""
        with quiet():
            return self._run(replicas, None if folder is None else Path(folder), resume, verbose)

    def _run(self, replicas: int, place: Path | None, resume: bool, verbose: bool) -> ComparedNorms:
        replicas = positive("replicas", replicas)
        models = {norm: self.candidates.get(norm, self.sizes[0], 0) for norm in self.norms}
        reference = models[self.norms[0]]
        start = evaluate(reference, self.validation, self.sizes[0])
        self.monitor = self._metric(start, reference)
        self.higher = self._is_higher_better(reference)
        self.constant = constant_metrics(reference, self.train, self.validation, self.sizes[0])
        store = Store(place, self._settings(reference), resume)
        show = Console(verbose)
        show.line("measuring the time of steps ...")
        costs = store.once(
            "costs",
            [self.norms, self.sizes],
            lambda: measure_costs(self.candidates, self.norms, self.sizes, self.train),
        )
        agreed = {}
        if replicas > 1:
            show.line("measuring replicas ...")
            agreed = store.once(
                "replicas",
                [self.norms, self.sizes[0], replicas],
                lambda: agreement(self.candidates, self.norms, self.train, self.sizes[0], replicas),
            )
        switches = self._run_of_switches()
        seconds = self._seconds(costs, switches)

        def planned(steps: int | None) -> Plan:
            return planning.make_plan(
                self.norms,
                self.sizes,
                self.seeds,
                steps,
                self.options["ghost"],
                seconds,
                self.budget.left,
                switches,
                lambda run: store.read(run) is not None,
            )

        # A resumed comparison has the steps of before, since its runs have.
        plan = planned(store.once("steps", [], lambda: planned(self.steps).steps))
        show.line(planning.in_words(plan, self.norms, self.sizes, self.budget))
        failures = self._train(plan, store, seconds, show)
        facts = facts_of(self, plan, store, failures, costs, agreed, switches)
        result = ComparedNorms(facts)
        if place is not None:
            result.write(place)
        return result

    def _metric(self, start: dict[str, float], model: keras.Model) -> str:
        if not self.monitor:
            # In the order of the model. Keras sorts what it measures by name.
            names = [each.name for each in _compiled_metrics(model)]
            return next((k for name in names for k in start if k.endswith(name)), "loss")
        if self.monitor not in start:
            raise ValueError(
                f"`monitor` must be one of {', '.join(start)}. Received: {self.monitor!r}"
            )
        return self.monitor

    def _is_higher_better(self, model: keras.Model) -> bool:
        if self.mode in ("min", "max"):
            return self.mode == "max"
        if self.mode != "auto":
            raise ValueError(f'`mode` must be "auto", "min" or "max". Received: {self.mode!r}')
        if self.monitor == "loss":
            return False
        known = {each.name: getattr(each, "_direction", None) for each in _compiled_metrics(model)}
        direction = next((d for name, d in known.items() if self.monitor.endswith(name)), None)
        if direction is None:
            raise ValueError(
                f"It is not known whether a larger {self.monitor} is better. Give "
                '`mode="max"` or `mode="min"`.'
            )
        return direction == "up"

    def _settings(self, model: keras.Model) -> dict[str, Any]:
        """What runs depend on."""
        source = None if self.candidates.is_function else self.candidates.source
        return {
            "model": fingerprint(model, source, self.options["keep_weights"]),
            "train": self.train.fingerprint(),
            "validation": self.validation.fingerprint(),
            "first_batch_size": self.sizes[0],
            "steps": self.steps,
            "monitor": self.monitor,
            **{k: self.options[k] for k in ("ghost", "keep_weights", "configure_optimizer")},
        }

    def _run_of_switches(self) -> Run | None:
        """The run that asks the model what it prefers, unless it is one of those compared."""
        if any(norm.split("(")[0] == "sn" for norm in self.norms):
            return None
        for norm in SWITCHES:
            with contextlib.suppress(Exception):  # a function may raise whatever it likes
                self.candidates.make(norm, self.sizes[0], 0)
                return Run(norm, self.sizes[0], 0, switches=True)
        return None

    def _seconds(self, costs: dict[str, dict[str, Any]], switches: Run | None) -> Seconds:
        """Measures what a run takes beside its steps."""
        base = self.sizes[0]
        step = {
            (norm, size): costs[norm]["step_ms"][str(size)] / 1000
            for norm in self.norms
            for size in self.sizes
        }
        fixed = {}
        for norm in self.norms:
            evaluate(self.candidates.get(norm, base, 0), self.validation, base)  # compiles
            began = self.budget.spent
            model = self.candidates.get(norm, base, 0)
            # After a seed was set, the first call of each function is slow.
            model.train_on_batch(*next(self.train.batches(base, 0)))
            evaluate(model, self.validation, base)
            made = self.budget.spent
            evaluate(model, self.validation, base)
            evaluated = self.budget.spent
            recalibrated(model, self.train, self.validation, base, 0)
            again = self.budget.spent - evaluated
            fixed[norm] = made - began + POINTS * (evaluated - made) + again
        if switches is not None:
            first = self.norms[0]
            fixed[switches.norm] = 2 * (fixed[first] + costs[first]["compile"])
            step[switches.norm, base] = 2 * step[first, base]
        return Seconds(step, fixed)

    def _train(self, plan: Plan, store: Store, seconds: Seconds, show: Console) -> dict[Run, str]:
        """Does the runs that are missing, and returns what failed."""
        failures = {}
        todo = [run for run in plan.runs if store.read(run) is None]
        total = sum(seconds.of(run, self._steps(plan, run)) for run in todo)
        with show.bar(total) as advance:
            for run in todo:
                # Ghost batches do nothing to some norms: their runs are those without.
                twin = run._replace(size=self.candidates.size(run.norm, run.size))
                known = store.read(twin) if twin != run else None
                if known is not None:
                    store.write(run, known)
                    continue
                steps = self._steps(plan, run)
                each = seconds.of(run, steps) / steps

                def each_step(each: float = each) -> None:
                    self.budget.check()
                    advance(each)

                try:
                    self.budget.check()
                    found = self._one(run, steps, each_step)
                except OutOfTime:
                    show.line(f"the time is over during {_title(run)}")
                    break
                except FloatingPointError as error:
                    found = {"failed": str(error), "curve": []}
                except Exception as error:  # whatever a run may raise, as out of memory
                    failures[run] = f"{type(error).__name__}: {str(error).strip()[:200]}"
                    show.line(f"{_title(run)} failed: {failures[run]}")
                    continue
                store.write(run, found)
                show.line(f"{_title(run)}: {self._in_words(found)}")
        return failures

    def _steps(self, plan: Plan, run: Run) -> int:
        return planning.steps_at(run.size, plan.steps, self.sizes[0], self.options["ghost"])

    def _one(self, run: Run, steps: int, each_step: Callable[[], None]) -> dict[str, Any]:
        model = self.candidates.get(run.norm, run.size, run.seed)
        taken = self.sizes[0] if self.options["ghost"] else run.size
        found = train_and_measure(
            model, self.train, self.validation, taken, steps, run.seed, self.sizes[0], each_step
        )
        return {"failed": None, **found}

    def _in_words(self, found: dict[str, Any]) -> str:
        if found["failed"]:
            return f"failed, {found['failed']}"
        return f"{self.monitor} {found['curve'][-1][self.monitor]:.4g}, {found['seconds']:.0f} s"


def _checked_name(norm: Any) -> str:
    if not isinstance(norm, str):
        raise ValueError(f'`norms` must be names, as "gn" or "gn(8)". Received: {norm!r}')
    get(norm)  # says which name is meant
    return norm


def _compiled_metrics(model: keras.Model) -> list[keras.Metric]:
    """The metrics that a model is compiled with, in their order."""
    return [each for metric in model.metrics for each in getattr(metric, "metrics", ())]


def _title(run: Run) -> str:
    what = " (for its switches)" * run.switches
    return f"{run.norm}{what}, batches of {run.size}, seed {run.seed}"
