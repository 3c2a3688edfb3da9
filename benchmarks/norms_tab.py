"""Measures the tab "Norms" of TensorBoard in headless Chromium, with large runs.

    python benchmarks/norms_tab.py

It writes event files as SwitchLogger does, and prints how long the server takes to read them, how
long the first picture takes after the request, and how many pictures a second the slider gives.
The aims are those of a fluid page: 2 s, and 20 pictures a second.
"""

import dataclasses
import logging
import os
import pathlib
import shutil
import statistics
import struct
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tyro
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.serving import make_server

from keras_norms.analysis import tag
from keras_norms.output import markdown_table
from keras_norms.tensorboard.plugin import NormsPlugin

STATISTICS = ("instance", "layer", "batch")
WEIGHTS = [(kind, s) for kind in ("mean", "variance") for s in STATISTICS]
FIRST_STEP, EVERY = 1 << 14, 16  # so that all steps take three bytes
# Moves the slider once in every picture of the screen, for some milliseconds.
SLIDE = """
milliseconds => new Promise(done => {
    const slider = document.getElementById("step");
    const first = Number(document.body.dataset.pictures);
    const began = performance.now();
    let row = 0;
    const move = now => {
        if (now - began > milliseconds) {
            const pictures = Number(document.body.dataset.pictures) - first;
            return done(1000 * pictures / (performance.now() - began));
        }
        row = (row + 1) % (Number(slider.max) + 1);
        slider.value = row;
        slider.dispatchEvent(new Event("input"));
        requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
})
"""


@dataclasses.dataclass
class Options:
    """How large the runs are."""

    layers: int = 500
    """Layers with switches of each run."""
    steps: int = 1000
    """Steps at which each run was logged."""
    runs: int = 10
    """Number of runs."""
    seconds: float = 5.0
    """How long the slider moves in each view."""
    views: tuple[str, ...] = ("map", "simplex", "bars", "runs")
    """In which views the slider moves."""


def crc32c(records: np.ndarray) -> np.ndarray:
    """The masked checksum of each row of bytes, as TFRecord files have it."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for column in records.T:
        crc = table[(crc ^ column) & 255] ^ crc >> 8
    crc = ~crc
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)


def template(paths: list[str], kind: str, statistic: str) -> tuple[np.ndarray, int]:
    """A record for each layer, of shape (layers, bytes), and where its value begins."""
    rows = []
    for path in paths:
        event = Event(wall_time=1.7e9, step=FIRST_STEP)
        value = event.summary.value.add(tag=tag(path, kind, statistic))
        value.tensor.dtype = 1
        value.tensor.tensor_shape.SetInParent()
        value.tensor.tensor_content = b"\xfe\xfd\xfc\xfb"
        value.metadata.plugin_data.plugin_name = "scalars"
        record = event.SerializeToString()
        length = np.frombuffer(struct.pack("<Q", len(record)), np.uint8)
        checksum = crc32c(length[None]).astype("<u4").tobytes()
        rows.append(length.tobytes() + checksum + record + bytes(4))
    return np.array([list(row) for row in rows], np.uint8), rows[0].index(b"\xfe\xfd\xfc\xfb")


def write_run(folder: pathlib.Path, options: Options, seed: int) -> None:
    """Writes one run; its weights walk from equal shares to a choice of each layer."""
    rng = np.random.default_rng(seed)
    paths = [f"stage{i * 10 // options.layers}_block{i:04}_norm1" for i in range(options.layers)]
    aims = rng.normal(0, 1.5, (options.layers, 2, 3))
    templates = [template(paths, kind, s) for kind, s in WEIGHTS]
    folder.mkdir(parents=True)
    with open(folder / "events.out.tfevents.1700000000.host.1.0.v2", "wb") as file:
        for step in range(options.steps):
            noise = rng.normal(0, 0.03, aims.shape)
            logits = aims * step / options.steps + noise
            shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            number = FIRST_STEP + EVERY * step
            varint = [number & 127 | 128, number >> 7 & 127 | 128, number >> 14]
            for index, (records, place) in enumerate(templates):
                values = shares[:, index // 3, index % 3].astype("<f4")
                records[:, 22:25] = varint  # behind the frame, the wall time and two tags
                records[:, place : place + 4] = values.view(np.uint8).reshape(-1, 4)
                checksums = crc32c(records[:, 12:-4]).astype("<u4")
                records[:, -4:] = checksums.view(np.uint8).reshape(-1, 4)
                file.write(records.tobytes())


def first_picture(browser, address: str) -> float:
    """Seconds from the request of the page to its first picture."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-pictures]")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    seconds = time.perf_counter() - began
    page.close()
    return seconds


def pictures_per_second(browser, address: str, view: str, seconds: float) -> float:
    """How many pictures a second a view gives while the slider moves."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(f"{address}#p.norms.view={view}")
    page.wait_for_selector("body[data-pictures]", timeout=120_000)
    page.evaluate(SLIDE, 1000)  # once without a clock
    rate = page.evaluate(SLIDE, 1000 * seconds)
    page.close()
    return rate


def main(options: Options) -> None:
    """Prints a table of what was measured."""
    from playwright.sync_api import sync_playwright

    for name in ("werkzeug", "tensorboard"):
        logging.getLogger(name).setLevel(logging.ERROR)
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.runs):
            write_run(pathlib.Path(folder) / f"run{seed}", options, seed)
        size = sum(file.stat().st_size for file in pathlib.Path(folder).rglob("*tfevents*"))
        plugin = NormsPlugin(TBContext(logdir=folder))
        began = time.perf_counter()
        plugin.store.read()
        read = time.perf_counter() - began
        events = options.layers * len(WEIGHTS) * options.steps * options.runs
        print(f"{events:,} events, {size / 1e9:.2f} GB: read in {read:.1f} s, once", flush=True)
        server = make_server("127.0.0.1", 0, TensorBoardWSGI([plugin]), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.port}/data/plugin_entry.html?name=norms"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path, args=["--no-sandbox"]
            )
            print(f"Chromium {browser.version}, headless, 1280 x 800, {os.cpu_count()} cores")
            found = [first_picture(browser, address) for _ in range(5)]
            lines.append(["first picture, median of 5", f"{statistics.median(found):.2f} s", "2 s"])
            for view in options.views:
                rate = pictures_per_second(browser, address, view, options.seconds)
                lines.append([f"slider, {view}", f"{rate:.0f} pictures/s", "20 pictures/s"])
            browser.close()
        server.shutdown()
    title = f"{options.layers} layers, {options.steps:,} steps, {options.runs} runs"
    print(markdown_table([title, "measured", "aim"], lines))


if __name__ == "__main__":
    main(tyro.cli(Options, args=sys.argv[1:]))
