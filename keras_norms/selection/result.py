"""What a comparison found: as a table, a page, files, and in a notebook."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_norms.analysis import tag
from keras_norms.optional import require
from keras_norms.output import write_csv, write_json
from keras_norms.page import body, page
from keras_norms.selection import charts, report, words
from keras_norms.selection.judging import Ranking, rank

_PURPOSE = {"purpose": "A comparison", "extra": "compare"}


class ComparedNorms:
    """What `keras_norms.compare` found. A notebook shows it.

    Args:
        facts: all that was measured, as `to_json` writes it.

    Example:
        >>> import keras, keras_norms
        >>> x = keras.ops.convert_to_numpy(keras.random.normal((64, 4), seed=0))
        >>> layers = [keras.layers.Dense(8), keras.layers.BatchNormalization()]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> model.compile("adam", "mse")
        >>> data = x, x.repeat(2, 1)
        >>> short = {"seeds": 1, "steps": 8, "verbose": False}
        >>> result = keras_norms.compare(model, data, data, ("bn",), **short)
        >>> isinstance(result, keras_norms.ComparedNorms), result.rankings[0].size
        (True, 32)
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "ComparedNorms":
        """The result of a comparison that has written its files to a folder."""
        return cls(json.loads((Path(folder) / "comparison.json").read_text()))

    @property
    def rankings(self) -> list[Ranking]:
        """The norms in their order, for each batch size."""
        return [rank(self.facts, size) for size in self.facts["batch_sizes"]]

    @property
    def answers(self) -> dict[str, str]:
        """`{question: answer}`, composed from the numbers."""
        return words.answers(self.facts)

    def table(self) -> None:
        """Prints rankings, costs and answers in a terminal."""
        tables, consoles, markup = require("rich.table", "rich.console", "rich.markup", **_PURPOSE)
        console = consoles.Console()

        def show(title: str, header: tuple[str, ...], rows: list[list[str]]) -> None:
            shown = tables.Table(title=title, title_justify="left", box=None, pad_edge=False)
            for name in header:
                shown.add_column(name, overflow="fold")
            for row in rows:
                shown.add_row(*map(markup.escape, row))
            console.print(shown, "")

        for size in self.facts["batch_sizes"]:
            rows = report.ranking_rows(self.facts, size)
            show(report.titled(self.facts, size), report.RANKING, rows)
        if self.facts["costs"]:
            show("costs", report.COSTS, report.cost_rows(self.facts))
        for question, answer in self.answers.items():
            console.print(f"[bold]{question}[/bold]\n{markup.escape(answer)}\n", highlight=False)
        why, code = words.advice(self.facts)
        console.print("[bold]What to do next[/bold]")
        console.print(markup.escape(f"{why}\n\n{code}"), highlight=False)

    def report(self, path: str | os.PathLike) -> None:
        """Writes a page of HTML that needs no other file."""
        with tempfile.TemporaryDirectory() as folder:
            figures = charts.draw(self.facts, Path(folder))
            text = report.document(self.facts, figures)
            html = page(text, Path(folder), report.TITLE, report.MARKS)
        Path(path).write_text(html)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes all points of all curves to a CSV file."""
        write_csv(path, report.curve_rows(self.facts) or [{"norm": ""}])

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes all that was measured to a JSON file."""
        write_json(path, self.facts)

    def to_tensorboard(self, folder: str | os.PathLike) -> None:
        """Writes the mean curves for TensorBoard, a run for each norm."""
        (tf,) = require("tensorflow", **_PURPOSE)
        for norm in self.facts["norms"]:
            writer = tf.summary.create_file_writer(os.path.join(os.fspath(folder), norm))
            with writer.as_default():
                for size in self.facts["batch_sizes"]:
                    for step, means in report.means_by_step(self.facts, norm, size).items():
                        for name, value in means.items():
                            tf.summary.scalar(f"{name}/batch {size}", value, step)
            writer.close()
        if self.facts["switches"]:
            writer = tf.summary.create_file_writer(os.path.join(os.fspath(folder), "switches"))
            with writer.as_default():
                for path, kinds in self.facts["switches"].items():
                    for kind, shares in kinds.items():
                        for statistic, share in shares.items():
                            name = tag(path, kind, statistic)
                            tf.summary.scalar(name, share, self.facts["steps"])
            writer.close()

    def write(self, folder: str | os.PathLike) -> None:
        """Writes report.html, figures, comparison.json, curves.csv and TensorBoard's events."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        charts.draw(self.facts, folder)
        self.report(folder / "report.html")
        self.to_json(folder / "comparison.json")
        self.to_csv(folder / "curves.csv")
        self.to_tensorboard(folder / "tensorboard")

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            figures = charts.draw(self.facts, Path(folder))
            return body(report.document(self.facts, figures), Path(folder), report.MARKS)
