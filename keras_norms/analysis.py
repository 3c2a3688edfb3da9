"""What switches and gates chose, read from a model, a model file or TensorBoard logs.

    preferences = analysis.read("runs/sn")     # a run, a log-dir or a .keras file
    print(preferences.text())
    figures.stacked_bars(preferences).savefig("preferences.png")

The weights of a layer have the form that `layer.importance()` returns: `{"mean": {"instance":
0.2, ...}, "variance": {...}}` or `{"gate": {"batch": 0.9, "instance": 0.1}}`. The keys "mean",
"variance" and "gate" are the kinds of weights. A fourth kind is derived: "both", the average of
mean and variance, which the paper calls importance.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_norms import optional
from keras_norms.base import Normalization
from keras_norms.model_layers import named_layers
from keras_norms.output import write_csv, write_json

# The papers' short names, in the order in which tables and figures show them.
LABELS = {"instance": "IN", "group": "GN", "layer": "LN", "batch": "BN"}
KINDS = ("mean", "variance", "both", "gate")
# {statistic: share}, {kind: shares} of a layer, and {layer path: weights} of a model.
Shares = Mapping[str, float]
Weights = Mapping[str, Shares]
Layers = Mapping[str, Weights]


def require(*modules: str) -> list[Any]:
    """Imports optional modules and returns them in the same order.

    Raises:
        ImportError: that names the extra to install.
    """
    purpose = "Logging and reading preferences"
    return optional.require(*modules, purpose=purpose, extra="tensorflow")


def switched_layers(model: keras.Model) -> dict[str, keras.Layer]:
    """The layers of `model` that learn which statistics to use, as `{path: layer}`."""
    return {
        path: layer
        for path, layer in named_layers(model).items()
        if isinstance(layer, Normalization) and hasattr(layer, "importance")
    }


def importance(model: keras.Model) -> dict[str, dict[str, dict[str, float]]]:
    """What the switches and gates of a model chose, as its weights say now; it needs no log.

    Args:
        model: a Keras model, which may nest others. Layers that are not built are left out.

    Returns:
        `{layer path: layer.importance()}` in model order; `{}` if no layer has switches or gates.

    Example:
        >>> import keras, keras_norms
        >>> norm = keras_norms.SwitchableNormalization(name="norm", statistics=("layer", "batch"))
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), norm])
        >>> keras_norms.importance(model)["norm"]["mean"]
        {'layer': 0.5, 'batch': 0.5}
    """
    layers = switched_layers(model)
    return {path: layer.importance() for path, layer in layers.items() if layer.built}


def stage(path: str) -> str:
    """The part of a layer's own name before the first "_", wherever the layer is nested.

    >>> stage("stage2_block1_norm2"), stage("encoder/stage2_block1_norm2"), stage("stem_norm")
    ('stage2', 'stage2', 'stem')
    """
    return path.rsplit("/", 1)[-1].split("_", 1)[0]


def entropy(weights: Shares, normalized: bool = False) -> float:
    """How undecided weights are: their entropy, 0 if one weight is all.

        -sum_s w_s log(w_s)

    Args:
        weights: they sum to 1.
        normalized: whether to divide by the entropy of equal weights, so that 1 is the most.
            Otherwise the unit is nats.

    >>> entropy({"layer": 0.5, "batch": 0.5}, normalized=True)
    1.0
    """
    nats = -sum(w * math.log(w) for w in weights.values() if not w <= 0)
    if not normalized:
        return nats
    return nats / math.log(len(weights)) if len(weights) > 1 else 0.0


def tag(path: str, kind: str, statistic: str) -> str:
    """The TensorBoard tag of one weight, which `split_tag` splits again."""
    return f"gate/{path}/{statistic}" if kind == "gate" else f"switch/{path}/{kind}/{statistic}"


_WEIGHTS = {(kind, s) for kind in ("mean", "variance") for s in LABELS} | {("gate", "batch")}


def split_tag(name: str) -> tuple[str, str, str] | None:
    """The layer path, kind and statistic of a tag of `SwitchLogger`; None for other tags.

    >>> split_tag("switch/encoder/norm/mean/batch"), split_tag("gate/norm/batch"), split_tag("loss")
    (('encoder/norm', 'mean', 'batch'), ('norm', 'gate', 'batch'), None)
    """
    prefix, *rest = name.split("/")
    if prefix == "switch" and len(rest) > 2:
        *layer, kind, statistic = rest
    elif prefix == "gate" and len(rest) > 1:
        (*layer, statistic), kind = rest, "gate"
    else:
        return None
    return ("/".join(layer), kind, statistic) if (kind, statistic) in _WEIGHTS else None


@dataclass(frozen=True)
class Preferences:
    """The weights of all layers of one model over training.

    Attributes:
        history: `{step: {layer path: weights}}`, steps ascending, layers in model order.
        name: what the weights were read from.
        options: the options of the training run; `{}` if they are not known.
        log_dir: the folder of the TensorBoard events, or None.
    """

    history: Mapping[int, Layers]
    name: str = "model"
    options: Mapping[str, Any] = field(default_factory=dict)
    log_dir: Path | None = None

    @property
    def last(self) -> Layers:
        """`{layer path: weights}` at the last step."""
        return self.history[max(self.history)]

    @property
    def first(self) -> Layers:
        """`{layer path: weights}` at the first step."""
        return self.history[min(self.history)]

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that any layer uses, in the order of `LABELS`."""
        used = {s for layer in self.last.values() for weights in layer.values() for s in weights}
        return tuple(s for s in LABELS if s in used)

    def means(self, step: int | None = None) -> dict[str, dict[str, dict[str, float]]]:
        """Means over the layers of each stage, and over all layers ("net").

        A statistic that a layer does not use counts as 0, so that the means sum to 1.

        Args:
            step: int, one of the steps of `history`; by default the last.

        Returns:
            `{stage or "net": {kind: {statistic: share}}}`, "net" last.
        """
        layers = self.last if step is None else self.history[step]
        stages: dict[str, list[Weights]] = {}
        for path, weights in layers.items():
            stages.setdefault(stage(path), []).append(weights)
        return {name: average(part) for name, part in stages.items()} | {
            "net": average(layers.values())
        }

    def change(self) -> dict[str, dict[str, dict[str, float]]]:
        """By how much each weight has changed since the first step, in the form of `last`.

        `{}` if there is only one step.
        """
        if len(self.history) < 2:
            return {}
        return {
            path: {
                kind: {s: w - self.first[path][kind][s] for s, w in shares.items()}
                for kind, shares in weights.items()
            }
            for path, weights in self.last.items()
        }

    def table(self) -> list[dict[str, Any]]:
        """One row for each layer and kind, a dict with the columns of the CSV file."""
        change, rows = self.change(), []
        for path, weights in self.last.items():
            changes = with_both(change[path]) if change else {}
            for kind, shares in with_both(weights).items():
                row: dict[str, Any] = {"layer_path": path, "stage": stage(path), "kind": kind}
                row |= {s: shares.get(s) for s in self.statistics}
                row["entropy"] = entropy(shares)
                row["normalized_entropy"] = entropy(shares, normalized=True)
                row |= {f"change_{s}": changes.get(kind, {}).get(s) for s in self.statistics}
                rows.append(row)
        return rows

    def text(self) -> str:
        """The tables for a terminal: layer by layer, and the means by stage and over the net."""
        layers = {path: average([weights]) for path, weights in self.last.items()}
        changes = {path: with_both(weights) for path, weights in self.change().items()}
        switches = any("mean" in weights for weights in self.last.values())
        steps = sorted(self.history)
        since = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else "one state, no history"
        return "\n".join(
            [
                f"{self.name} ({since})",
                *text_table("layer", layers, self.statistics, "most moved", _most_moved(changes)),
                "",
                *text_table("mean over", self.means(), self.statistics),
                "",
                "undecided: entropy of "
                + ("both, the average of mean and variance" if switches else "the mean gate")
                + "; at 1 all weights are equal.",
            ]
        )

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes `table()` to a CSV file."""
        write_csv(path, self.table())

    def to_json(self, path: str | os.PathLike) -> None:
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


def with_both(weights: Weights) -> dict[str, Shares]:
    """The weights of a layer and the derived kind "both", in the order of `KINDS`."""
    if "mean" in weights:
        mean, variance = weights["mean"], weights["variance"]
        weights = {**weights, "both": {s: (mean[s] + variance[s]) / 2 for s in mean}}
    return {kind: weights[kind] for kind in KINDS if kind in weights}


def average(layers: Iterable[Weights]) -> dict[str, dict[str, float]]:
    """Means over the weights of layers, with the kinds of `with_both`."""
    all_weights = [with_both(weights) for weights in layers]
    means = {}
    for kind in KINDS:
        parts = [weights[kind] for weights in all_weights if kind in weights]
        used = [s for s in LABELS if any(s in part for part in parts)]
        if parts:
            means[kind] = {s: sum(p.get(s, 0.0) for p in parts) / len(parts) for s in used}
    return means


def read(path: str | os.PathLike) -> Preferences:
    """Reads what the switches and gates of a training run chose.

    Args:
        path: one of

            - a run folder of `scripts/train.py`;
            - a folder with TensorBoard events of `keras_norms.callbacks.SwitchLogger`, in it or
              in folders below it;
            - a `.keras` file, which holds the last weights but no history.

    Returns:
        `Preferences`.

    Raises:
        ValueError: if `path` is none of these, or holds the events of several runs.
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


def _read_model(path: Path) -> Preferences:
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


def _read_options(run: Path) -> dict[str, Any]:
    file = run / "run.json"
    try:
        return json.loads(file.read_text())["options"] if file.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the run.json of a training run ({error!r}).") from error


def _event_folders(path: Path) -> list[Path]:
    return sorted({file.parent for file in path.rglob("*tfevents*") if file.is_file()})


def _read_logs(folder: Path) -> dict[int, Layers]:
    """The history in one folder; `{}` if it holds no events of switches or gates."""
    accumulators, tensor_util = require(
        "tensorboard.backend.event_processing.event_accumulator", "tensorboard.util.tensor_util"
    )
    # 0 keeps every event. By default TensorBoard keeps ten of each tag, chosen at random.
    events = accumulators.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    curves: dict[tuple[str, str, str], dict[int, float]] = {}
    for name in events.Tags()["tensors"]:  # in the order written, which is model order
        key = split_tag(name)
        if key is None:
            continue
        written = events.Tensors(name)
        if any(math.prod(d.size for d in e.tensor_proto.tensor_shape.dim) != 1 for e in written):
            continue  # another writer's
        curve: dict[int, float] = {}
        for event in written:
            # A run that was resumed replaces what was written for its first step and later ones.
            while curve and next(reversed(curve)) >= event.step:
                curve.popitem()
            curve[event.step] = tensor_util.make_ndarray(event.tensor_proto).item()
        curves[key] = curve
    # If a run was killed while it wrote, its last step is incomplete.
    steps = set.intersection(*map(set, curves.values())) if curves else set()
    if curves and not steps:
        raise ValueError(
            f"The events in {folder} were never all logged at one step: do two models share the "
            "folder? Log each run to a folder of its own."
        )
    history: dict[int, dict[str, dict[str, dict[str, float]]]] = {}
    for step in sorted(steps):
        layers = history[step] = {}
        for (path, kind, statistic), curve in curves.items():
            shares = layers.setdefault(path, {}).setdefault(kind, {})
            shares[statistic] = curve[step]
            if kind == "gate":
                shares["instance"] = 1 - curve[step]
    return history  # type: ignore[return-value]


def text_table(
    header: str,
    rows: Layers,
    statistics: Sequence[str],
    extra_header: str = "",
    extra: Mapping[str, str] | None = None,
) -> list[str]:
    """Lines of a table of weights for a terminal.

    Args:
        header: the header of the first column.
        rows: `{name: weights}`, a row each.
        statistics: those to show.
        extra_header: the header of the last column.
        extra: `{name: text}` for the last column.
    """
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


def _most_moved(changes: Layers) -> dict[str, str]:
    """For each layer the statistic whose share has changed most, and by how much, as text."""

    def text(change: Shares) -> str:
        statistic = max(change, key=lambda s: abs(change[s]))
        return f"{LABELS[statistic]} {change[statistic]:+.2f}"

    return {path: text(kinds.get("both") or kinds["gate"]) for path, kinds in changes.items()}
