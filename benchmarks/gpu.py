"""Measures the layers on a GPU, against those of torch, timm and flax, on JAX and PyTorch.

    python benchmarks/gpu.py                      # 8 minutes; writes docs/GPU.md
    python benchmarks/gpu.py --smoke --output ""  # tiny inputs, on any machine: does it work?

A share of 100 % is the time in which a copy moves the bytes of a norm that reads nothing twice.
Forward it reads `x` and writes `y`. A training step also reads `dy` and `x`, and writes `dx`. Where
an activation exceeds the cache, a norm has to read more. All rows of a column and the copy are
timed in turn, and a figure is the median over rounds. Each backend has a
process of its own. TensorFlow is not needed. Peers that are not installed are left out.
"""

import dataclasses
import datetime
import functools
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BACKENDS = ("jax", "torch")
SHAPES = ((64, 56, 56, 64), (64, 28, 28, 128), (64, 7, 7, 2048), (8, 4096, 1024))
SMOKE_SHAPES = ((4, 8, 8, 64), (2, 64, 64))
DTYPES = ("float32", "bfloat16")
NORMS = ("none", "bn", "gn", "sn")  # of the ResNet-50
FORWARD, TRAINING = 1.0, 2.5  # bytes that have to move, in copies of the activation
Call = Callable[[], Any]  # does the work once, and waits for it
Rows = dict[str, Call | str]  # a str says why there is no figure


@dataclasses.dataclass
class Options:
    """What to measure."""

    output: str = "docs/GPU.md"
    """Markdown file for the tables. Empty: only print them."""
    smoke: bool = False
    """Tiny inputs and two rounds: figures mean nothing."""
    rounds: int = 20
    """How many times every row is timed."""
    minutes: float = 3.5
    """Time for each of the two backends. What is left then is not measured."""


def ours(tokens: bool, dtype: str) -> dict[str, Any]:
    """The layers of this package."""
    import keras

    import keras_norms

    axes = {"batch_axis": (0, 1)} if tokens else {}
    options = {"dtype": "mixed_bfloat16" if dtype == "bfloat16" else dtype} | axes
    layers = {
        "BN": keras_norms.BatchNormalization(**options),
        "GN (32 groups)": keras_norms.GroupNormalization(32, **options),
        "LN (GN, 1 group)": keras_norms.GroupNormalization(1, **options),
        "SN": keras_norms.SwitchableNormalization(**options),
        "keras BN": keras.layers.BatchNormalization(dtype=options["dtype"]),
        "keras LN": keras.layers.LayerNormalization(dtype=options["dtype"]),
    }
    if not tokens:
        layers["IN"] = keras_norms.InstanceNormalization(**options)
        layers["BIN"] = keras_norms.BatchInstanceNormalization(**options)
    return layers


def in_training(layer: Any) -> dict[str, bool]:
    """The arguments of a call in training: Keras's layer norm takes none."""
    return {"training": True} if "training" in inspect.signature(layer.call).parameters else {}


def on_jax(shape: tuple[int, ...], dtype: str) -> Iterator[tuple[str, Call, Call]]:
    """`(row, forward, training step)` of the layers on JAX."""
    import jax

    x, dy = (jax.random.normal(jax.random.key(i), shape).astype(dtype) for i in (0, 1))

    def calls(apply: Callable, weights: Any) -> tuple[Call, Call]:
        def step(weights: Any, x: Any, dy: Any) -> Any:
            y, pull, rest = jax.vjp(apply, weights, x, has_aux=True)
            return y, pull(dy.astype(y.dtype)), rest

        forward, train = jax.jit(apply), jax.jit(step)
        return (
            lambda: jax.block_until_ready(forward(weights, x)),
            lambda: jax.block_until_ready(train(weights, x, dy)),
        )

    yield ("copy", *calls(lambda _, x: (x * 1.5, ()), ()))
    for name, layer in ours(len(shape) == 3, dtype).items():
        layer.build(shape)
        fixed = [v.value for v in layer.non_trainable_variables]

        def apply(weights: Any, x: Any, layer: Any = layer, fixed: Any = fixed) -> Any:
            return layer.stateless_call(weights, fixed, x, **in_training(layer))

        yield (name, *calls(apply, [v.value for v in layer.trainable_variables]))
    if importlib.util.find_spec("flax") is None:
        return
    from flax import nnx

    options = {"dtype": dtype, "rngs": nnx.Rngs(0)}
    peers = {
        "flax BatchNorm": nnx.BatchNorm(shape[-1], use_running_average=False, **options),
        "flax GroupNorm": nnx.GroupNorm(shape[-1], 32, **options),
        "flax LayerNorm": nnx.LayerNorm(shape[-1], **options),
    }
    for name, module in peers.items():
        graph, weights, fixed = nnx.split(module, nnx.Param, ...)

        def apply(weights: Any, x: Any, graph: Any = graph, fixed: Any = fixed) -> Any:
            module = nnx.merge(graph, weights, fixed, copy=True)
            return module(x), nnx.state(module, nnx.BatchStat)

        yield (name, *calls(apply, weights))


def on_torch(shape: tuple[int, ...], dtype: str) -> Iterator[tuple[str, Call, Call]]:
    """`(row, forward, training step)` of the layers on PyTorch, eager and compiled."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, channels = getattr(torch, dtype), shape[-1]
    x, dy = (torch.randn(shape, device=device).to(kind) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def calls(apply: Callable, weights: list, last: bool = True) -> tuple[Call, Call]:
        # Modules of torch take channels second; in memory they stay last.
        inputs, slopes = (t if last else t.movedim(-1, 1) for t in (x, dy))
        inputs = inputs.detach().requires_grad_()

        def forward() -> None:
            with torch.no_grad():
                apply(inputs)
            wait()

        def train() -> None:
            y = apply(inputs)
            torch.autograd.grad(y, [inputs, *weights], slopes.to(y.dtype))
            wait()

        return forward, train

    yield ("copy", *calls(lambda x: x * 1.5, []))
    images, nn = len(shape) == 4, torch.nn
    peers: dict[str, Any] = {"torch LayerNorm": nn.LayerNorm(channels)}
    if images:
        peers["torch BatchNorm2d"] = nn.BatchNorm2d(channels)
        peers["torch GroupNorm"] = nn.GroupNorm(32, channels)
        if importlib.util.find_spec("timm"):
            from timm.layers import GroupNorm, LayerNorm2d

            peers |= {"timm GroupNorm": GroupNorm(channels, 32), "timm LN2d": LayerNorm2d(channels)}
    for name, module in peers.items():
        module, last = module.to(device, kind), name == "torch LayerNorm"
        weights = list(module.parameters())
        yield (name, *calls(module, weights, last))
        yield (f"{name}, compiled", *calls(torch.compile(module), weights, last))
    for name, layer in ours(not images, dtype).items():
        layer.build(shape)
        weights = [v.value for v in layer.trainable_variables]
        apply = functools.partial(layer, **in_training(layer))
        yield (name, *calls(apply, weights))
        yield (f"{name}, compiled", *calls(torch.compile(apply), weights))


def resnet_steps(smoke: bool) -> Iterator[tuple[str, Call]]:
    """Loss and gradients of a ResNet-50 on JAX with each norm, in mixed precision."""
    import jax
    import keras

    import zoo

    size, batch = (64, 2) if smoke else (224, 64)
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    labels = jax.numpy.arange(batch) % 1000
    for norm in NORMS[1:2] if smoke else NORMS:
        model = zoo.resnet(50, 1000, norm=norm, input_shape=(size, size, 3))
        groups = model.trainable_variables, model.non_trainable_variables
        state = [[v.value for v in group] for group in groups]

        def loss(weights: Any, fixed: Any, model: Any = model) -> Any:
            y, fixed = model.stateless_call(weights, fixed, x, training=True)
            logits = y.astype("float32")
            losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            return losses.mean(), fixed

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        yield norm, lambda step=step, state=state: jax.block_until_ready(step(*state))


def median_times(rows: Rows, rounds: int) -> dict[str, float | str]:
    """Seconds of a call of each row, all rows in turn; or why there is none."""
    times: dict[str, Any] = {}
    for name, call in rows.items():
        try:
            call()  # compiles
            times[name] = []
        except Exception as error:  # of any backend: a row that fails says so, and the others go on
            times[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    for _ in range(rounds):
        for name, call in rows.items():
            if isinstance(times[name], list):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {n: t if isinstance(t, str) else float(np.median(t)) for n, t in times.items()}


def measure(backend: str, options: Options) -> list[dict[str, Any]]:
    """The columns of a backend, in this process: title, and a figure for each row."""
    end, columns = time.monotonic() + 60 * options.minutes, []
    rounds = 2 if options.smoke else options.rounds
    make = on_jax if backend == "jax" else on_torch
    for shape in SMOKE_SHAPES if options.smoke else SHAPES:
        for dtype in DTYPES:
            if time.monotonic() > end:
                return columns
            print(backend, shape, dtype, file=sys.stderr, flush=True)
            rows = list(make(shape, dtype))
            for place, kind, copies in ((1, "forward", FORWARD), (2, "training", TRAINING)):
                calls = {name: row[place - 1] for name, *row in rows} | {"copy": rows[0][1]}
                times = median_times(calls, rounds)
                copy = times["copy"]
                cells = {
                    name: t if isinstance(t, str) else f"{copies * copy / t:.0%}"
                    for name, t in times.items()
                    if name != "copy"
                }
                title = f"{shape}, {dtype}, {kind}"
                columns.append({"title": title, "copy_ms": 1e3 * copy, "cells": cells})
    return columns


def measure_resnet(options: Options) -> list[dict[str, Any]]:
    """The column of the ResNet-50."""
    times = median_times(dict(resnet_steps(options.smoke)), 2 if options.smoke else 10)
    cells = {n: t if isinstance(t, str) else f"{1e3 * t:.1f} ms" for n, t in times.items()}
    return [{"title": "loss and gradients", "copy_ms": None, "cells": cells}]


def in_child(part: str, backend: str, options: Options) -> tuple[str, list[dict[str, Any]]]:
    """The device and the columns of a part, measured in a process with that backend."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "columns.json"
        arguments = json.dumps(dataclasses.asdict(options))
        command = [sys.executable, __file__, "--child", part, backend, arguments, str(path)]
        subprocess.run(command, check=True, env=os.environ | {"KERAS_BACKEND": backend})
        return json.loads(path.read_text())


def device(backend: str) -> str:
    """The name and the version of what a backend computes on."""
    if backend == "jax":
        import jax

        return f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, PyTorch {torch.__version__}"


def section(title: str, where: str, columns: list[dict[str, Any]], command: str) -> str:
    """A part of the Markdown file."""
    from keras_norms.output import markdown_table

    names = dict.fromkeys(name for column in columns for name in column["cells"])
    lines = [[name, *(c["cells"].get(name, "") for c in columns)] for name in names]
    if columns and columns[0]["copy_ms"]:
        lines.insert(0, ["100 % is", *(f"a copy: {c['copy_ms']:.3f} ms" for c in columns)])
    table = markdown_table(["", *(c["title"] for c in columns)], lines)
    return f"### {title}\n\n`{command}`, {datetime.date.today()}, {where}.\n\n{table}"


def main(options: Options) -> None:
    command, sections = " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]), []
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is None:
            print(f"{backend} is not installed: left out", file=sys.stderr)
            continue
        where, columns = in_child("layers", backend, options)
        title = f"{backend}: the share of a copy's bandwidth"
        sections.append(section(title, where, columns, command))
        if backend == "jax":
            where, columns = in_child("resnet", backend, options)
            sections.append(section("jax: ResNet-50", where, columns, command))
    print("\n\n".join(sections))
    if options.output:
        about = (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip()
        Path(options.output).write_text("\n\n".join(["# Norms on a GPU", about, *sections]) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        part, backend, arguments, path = sys.argv[2:]
        options = Options(**json.loads(arguments))
        columns = measure(backend, options) if part == "layers" else measure_resnet(options)
        Path(path).write_text(json.dumps([device(backend), columns]))
    else:
        import tyro

        main(tyro.cli(Options, description=__doc__))
