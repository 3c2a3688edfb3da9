"""What switches and gates chose: read from a model, a model file or TensorBoard logs.

    preferences = analysis.read("runs/sn")     # a run, a log-dir or a .keras file
    print(preferences.text())
    figures.stacked_bars(preferences).savefig("preferences.png")

The weights of one layer always look as `layer.importance()` gives them, `{"mean": {"instance":
0.2, ...}, "variance": {...}}` or `{"gate": {"batch": 0.9, "instance": 0.1}}`. A fourth kind is
derived: "both", the average of mean and variance, which the paper calls importance.
"""

import importlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras

from keras_norms.base import Normalization
from keras_norms.output import write_csv, write_json
from keras_norms.tree import named_layers

# The papers' short names, in the order in which tables and figures show them.
LABELS = {"instance": "IN", "group": "GN", "layer": "LN", "batch": "BN"}
KINDS = ("mean", "variance", "both", "gate")


def require(*modules):
    """Imports optional modules, in the order given.

    Raises:
        ImportError: that names the extra to install.
    """
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise ImportError(
            f"Logging and reading preferences needs {error.name or modules[0]}, which cannot be "
            'imported here. Install it with: pip install "keras-norms[tensorflow]"'
        ) from error


def switched_layers(model):
    """The layers of `model` that learn which statistics to use, as `{path: layer}`."""
    return {
        path: layer
        for path, layer in named_layers(model).items()
        if isinstance(layer, Normalization) and hasattr(layer, "importance")
    }


def importance(model):
    """What each built layer of a model chose, nested layers included, without any log.

    Args:
        model: a Keras model.

    Returns:
        `{layer path: layer.importance()}` in model order; `{}` if no layer has such weights.
    """
    layers = switched_layers(model)
    return {path: layer.importance() for path, layer in layers.items() if layer.built}


def stage(path):
    """What stands before the first "_" in a layer's own name, wherever the layer is nested.

    >>> stage("stage2_block1_norm2"), stage("encoder/stage2_block1_norm2"), stage("stem_norm")
    ('stage2', 'stage2', 'stem')
    """
    return path.rsplit("/", 1)[-1].split("_", 1)[0]


def entropy(weights, normalized=False):
    """How undecided weights that sum to 1 are, in nats; normalized, 1 is "all equal"."""
    nats = -sum(w * math.log(w) for w in weights.values() if not w <= 0)
    if not normalized:
        return nats
    return nats / math.log(len(weights)) if len(weights) > 1 else 0.0


def tag(path, kind, statistic):
    """The TensorBoard tag of one weight, which `read` takes apart again."""
    return f"gate/{path}/{statistic}" if kind == "gate" else f"switch/{path}/{kind}/{statistic}"


@dataclass(frozen=True)
class Preferences:
    """The weights of all layers of one model over training.

    Attributes:
        history: `{step: {layer path: weights}}`, steps ascending, layers in model order.
        name: what the weights were read from.
        options: the options of the training run, as far as known.
        log_dir: the folder of the TensorBoard events, or None.
    """

    history: Mapping[int, Mapping[str, Mapping]]
    name: str = "model"
    options: Mapping = field(default_factory=dict)
    log_dir: Path | None = None

    @property
    def last(self):
        """`{layer path: weights}` at the last step."""
        return self.history[max(self.history)]

    @property
    def first(self):
        """`{layer path: weights}` at the first step."""
        return self.history[min(self.history)]

    @property
    def statistics(self):
        """The statistics that any layer uses, in the order of `LABELS`."""
        used = {s for layer in self.last.values() for weights in layer.values() for s in weights}
        return tuple(s for s in LABELS if s in used)

    def means(self, step=None):
        """Means over the layers of each stage, and of the net.

        A statistic that a layer does not use counts as 0 there, so that means sum to 1 too.

        Args:
            step: int, one of the steps of `history`; by default the last.

        Returns:
            `{stage or "net": {kind: {statistic: share}}}`, "net" last.
        """
        layers = self.last if step is None else self.history[step]
        stages = {}
        for path, weights in layers.items():
            stages.setdefault(stage(path), []).append(weights)
        return {name: average(part) for name, part in stages.items()} | {
            "net": average(layers.values())
        }

    def change(self):
        """How far each weight has moved since the first step, shaped as `last`; {} if unknown."""
        if len(self.history) < 2:
            return {}
        return {
            path: {
                kind: {s: w - self.first[path][kind][s] for s, w in shares.items()}
                for kind, shares in weights.items()
            }
            for path, weights in self.last.items()
        }

    def table(self):
        """One row for each layer and kind, a dict with the columns of the CSV file."""
        change, rows = self.change(), []
        for path, weights in self.last.items():
            moved = with_both(change[path]) if change else {}
            for kind, shares in with_both(weights).items():
                row = {"layer_path": path, "stage": stage(path), "kind": kind}
                row |= {s: shares.get(s) for s in self.statistics}
                row["entropy"] = entropy(shares)
                row["normalized_entropy"] = entropy(shares, normalized=True)
                row |= {f"change_{s}": moved.get(kind, {}).get(s) for s in self.statistics}
                rows.append(row)
        return rows

    def text(self):
        """The table for a terminal, layer by layer, then the means by stage and over the net."""
        layers = {path: average([weights]) for path, weights in self.last.items()}
        moved = {path: with_both(weights) for path, weights in self.change().items()}
        switches = any("mean" in weights for weights in self.last.values())
        steps = sorted(self.history)
        since = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else "one state, no history"
        return "\n".join(
            [
                f"{self.name} ({since})",
                *text_table("layer", layers, self.statistics, "most moved", _most_moved(moved)),
                "",
                *text_table("mean over", self.means(), self.statistics),
                "",
                "undecided: entropy of "
                + ("both, the average of mean and variance" if switches else "the mean gate")
                + "; 1 is all alike.",
            ]
        )

    def to_csv(self, path):
        """Writes `table()` to a CSV file."""
        write_csv(path, self.table())

    def to_json(self, path):
        """Writes the options, `table()`, the means and the whole history to a JSON file."""
        write_json(
            path,
            {
                "name": self.name,
                "options": dict(self.options),
                "layers": self.table(),
                "means": self.means(),
                "history": self.history,
            },
        )


def with_both(weights):
    """The kinds of one layer with the derived "both", in the order of `KINDS`."""
    if "mean" in weights:
        mean, variance = weights["mean"], weights["variance"]
        weights = {**weights, "both": {s: (mean[s] + variance[s]) / 2 for s in mean}}
    return {kind: weights[kind] for kind in KINDS if kind in weights}


def average(layers: Iterable[Mapping]):
    """Means over layers: `{kind: {statistic: share}}`, kinds as in `with_both`."""
    layers = [with_both(weights) for weights in layers]
    means = {}
    for kind in KINDS:
        parts = [weights[kind] for weights in layers if kind in weights]
        used = [s for s in LABELS if any(s in part for part in parts)]
        if parts:
            means[kind] = {s: sum(p.get(s, 0.0) for p in parts) / len(parts) for s in used}
    return means


def read(path):
    """Reads what a training run chose.

    Args:
        path: a run folder of `scripts/train.py`, any folder with TensorBoard events of
            `keras_norms.callbacks.SwitchLogger` below it, or a `.keras` file, which holds the
            last weights but no history.

    Returns:
        `Preferences`.

    Raises:
        ValueError: if there is nothing of that kind, or events of several runs.
        ImportError: if the packages that read events are missing.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist. Give a run folder, a log-dir or a .keras file.")
    if path.is_file():
        return _read_model(path)
    logs = {folder: history for folder in _event_folders(path) if (history := _read_logs(folder))}
    options = _read_options(path)
    if len(logs) > 1:
        found = ", ".join(str(folder) for folder in logs)
        raise ValueError(f"{path} holds the switches of several runs; name one of: {found}")
    for folder, history in logs.items():
        return Preferences(history, str(path), options, folder)
    if (path / "model.keras").exists():
        preferences = _read_model(path / "model.keras")
        return Preferences(preferences.history, str(path), options)
    raise ValueError(
        f"No switches or gates below {path}: no TensorBoard event there has a tag "
        "'switch/...' or 'gate/...', and there is no model.keras. Log them with "
        "model.fit(..., callbacks=[keras_norms.callbacks.SwitchLogger(log_dir)]) on a model with "
        "SwitchableNormalization or BatchInstanceNormalization layers, or give a .keras file."
    )


def _read_model(path):
    try:
        table = importance(keras.saving.load_model(path, compile=False))
    except (ValueError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} cannot be read as a Keras model: {reason}") from error
    if not table:
        raise ValueError(
            f"{path} has no layer with switches or gates (SwitchableNormalization, "
            "BatchInstanceNormalization), so it has no preferences to show."
        )
    return Preferences({0: table}, str(path))


def _read_options(run):
    file = run / "run.json"
    try:
        return json.loads(file.read_text())["options"] if file.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the run.json of a training run ({error!r}).") from error


def _event_folders(path):
    return sorted({file.parent for file in path.rglob("*tfevents*") if file.is_file()})


def _read_logs(folder):
    """`{step: {layer path: weights}}` of the events in one folder; {} if it has none of ours."""
    accumulators, tensor_util = require(
        "tensorboard.backend.event_processing.event_accumulator", "tensorboard.util.tensor_util"
    )
    # 0 keeps every event; without it all but ten are thinned out at random.
    events = accumulators.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    curves = {}
    for name in events.Tags()["tensors"]:  # in the order written, which is model order
        prefix, *rest = name.split("/")
        if prefix == "switch" and len(rest) > 2:
            *layer, kind, statistic = rest
        elif prefix == "gate" and len(rest) > 1:
            (*layer, statistic), kind = rest, "gate"
        else:
            continue
        curve = {}
        for event in events.Tensors(name):
            # A run that was resumed or restarted replaces what an earlier one wrote from there on.
            while curve and next(reversed(curve)) >= event.step:
                curve.popitem()
            curve[event.step] = tensor_util.make_ndarray(event.tensor_proto).item()
        curves["/".join(layer), kind, statistic] = curve
    # A run killed while it wrote leaves its last step incomplete.
    steps = set.intersection(*map(set, curves.values())) if curves else set()
    if curves and not steps:
        raise ValueError(
            f"The events in {folder} were never all logged at one step: do two models share the "
            "folder? Log each run to a folder of its own."
        )
    history = {}
    for step in sorted(steps):
        table = history[step] = {}
        for (path, kind, statistic), curve in curves.items():
            shares = table.setdefault(path, {}).setdefault(kind, {})
            shares[statistic] = curve[step]
            if kind == "gate":
                shares["instance"] = 1 - curve[step]
    return history


def text_table(header, rows, statistics, extra_header="", extra=None):
    """Lines of a table with a row `{kind: {statistic: share}}` for each name."""
    kinds = [kind for kind in KINDS if any(kind in row for row in rows.values())]
    width = max(len(header), *map(len, rows))
    columns = " ".join(f"{LABELS[s]:>4}" for s in statistics)
    lines = [
        f"{'':{width}} " + "".join(f"  {kind:<{len(columns)}}" for kind in kinds).rstrip(),
        f"{header:<{width}} " + f"  {columns}" * len(kinds) + f"  undecided  {extra_header}",
    ]
    for name, row in rows.items():
        line = f"{name:<{width}} "
        for kind in kinds:
            shares = row.get(kind, {})
            cells = (f"{shares[s]:4.2f}" if s in shares else "   -" for s in statistics)
            line += "  " + " ".join(cells)
        deciding = row.get("both") or row["gate"]
        line += f"  {entropy(deciding, normalized=True):9.2f}  {(extra or {}).get(name, '')}"
        lines.append(line)
    return [line.rstrip() for line in lines]


def _most_moved(change):
    """For each layer the statistic that moved most since the start, as text."""
    texts = {}
    for path, kinds in change.items():
        moved = kinds.get("both") or kinds["gate"]
        statistic = max(moved, key=lambda s: abs(moved[s]))
        texts[path] = f"{LABELS[statistic]} {moved[statistic]:+.2f}"
    return texts
