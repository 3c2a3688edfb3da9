"""The tab "Norms" of TensorBoard: what its server answers. The page is in static/."""

import json
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException, NotFound

from keras_norms.analysis import LABELS
from keras_norms.comparison import NOT_COMPARED
from keras_norms.figures import COLOURS
from keras_norms.tensorboard.store import Run, Store, statistics

STATIC = Path(__file__).parent / "static"
FIRST_LOOK = 0.5  # seconds for which TensorBoard waits to know whether there are switches


class NormsPlugin(base_plugin.TBPlugin):
    """Shows what the switches and gates of any number of runs chose.

    Args:
        context: `base_plugin.TBContext`. Its log-dir is read where it lies, as the server of
            TensorBoard keeps only a part of each curve.
    """

    plugin_name = "norms"

    def __init__(self, context: Any) -> None:
        self.store = Store(_roots(context))

    def is_active(self) -> bool:
        reading = self.store.refresh()
        if not self.store.shown() and reading:
            reading.join(FIRST_LOOK)
        return bool(self.store.shown())

    def frontend_metadata(self) -> Any:
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Norms")

    def get_plugin_apps(self) -> dict[str, Callable]:
        return {
            "/static/*": _application(self._static),
            "/runs": _application(self._runs),
            "/weights": _application(self._weights),
            "/gates": _application(self._gates),
        }

    def _static(self, request: Request) -> tuple[bytes, str]:
        name = request.path.split("/static/", 1)[-1]
        files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*.*")}
        if name not in files:
            raise NotFound(f"There is no file {name}.")
        return files[name].read_bytes(), mimetypes.guess_type(name)[0] or "text/plain"

    def _runs(self, request: Request) -> tuple[bytes, str]:
        """All runs, without their weights; `{}` beside the version if it is that of the request."""
        reading = self.store.reading or not self.store.passes  # not only what begins now
        self.store.refresh()
        with self.store.lock:
            version = self.store.version
            state = {
                "version": version,
                "reading": reading,
                "files": self.store.files(),
                "roots": list(self.store.roots.values()),
                "problems": self.store.problems(),
            }
            if request.args.get("version") != str(version):
                state |= {
                    "statistics": statistics(self.store.runs),
                    "labels": LABELS,
                    "colours": COLOURS,
                    "not_compared": NOT_COMPARED,
                    "runs": [run.describe() for run in self.store.shown()],
                }
        return json.dumps(state).encode(), "application/json"

    def _weights(self, request: Request) -> tuple[bytes, str]:
        """The weights of a run from row `from` on, as `_pack` describes."""
        with self.store.lock:
            run = self._run(request)
            steps, values = run.rows()
            first = request.args.get("from", 0, int)
            if request.args.get("generation", type=int) != run.generation:
                first = 0
            header = {"generation": run.generation, "from": first, "steps": steps[first:]}
            return _pack(header | {"columns": values.shape[1]}, values[first:])

    def _gates(self, request: Request) -> tuple[bytes, str]:
        """The histograms of the gates of a run, as `_pack` describes."""
        with self.store.lock:
            steps, paths, counts = self._run(request).gates()
            return _pack({"steps": steps, "paths": paths, "bins": counts.shape[-1]}, counts)

    def _run(self, request: Request) -> Run:
        name = request.args.get("run", "")
        if name not in self.store.runs:
            raise NotFound(f"There is no run {name!r} with switches or gates. Reload the page.")
        return self.store.runs[name]


def _roots(context: Any) -> dict[str, str]:
    """`{prefix of the names of runs: folder}` of `--logdir` or `--logdir_spec`."""
    spec = getattr(context.flags, "logdir_spec", "") or ""
    roots = {}
    for part in filter(None, spec.split(",")):
        name, colon, folder = part.partition(":")
        if not colon or part.startswith("/"):  # without a name, TensorBoard names it by its path
            name = folder = part
        roots[name] = os.path.expanduser(folder)
    return roots or {"": os.path.expanduser(context.logdir or ".")}


def _pack(header: dict[str, Any], values: np.ndarray) -> tuple[bytes, str]:
    """The length of a header, the header as JSON, spaces to a multiple of 4, and float32 values."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    numbers = np.ascontiguousarray(values, "<f4").tobytes()
    return len(text).to_bytes(4, "little") + text + numbers, "application/octet-stream"


def _application(answer: Callable[[Request], tuple[bytes, str]]) -> Callable:
    """A WSGI application that answers with bytes of a content type."""

    @Request.application
    def application(request: Request) -> Response:
        try:
            content, kind = answer(request)
        except HTTPException as error:
            message = error.description or ""
            return http_util.Respond(request, message, "text/plain", code=error.code)
        return http_util.Respond(request, content, kind)

    return application
