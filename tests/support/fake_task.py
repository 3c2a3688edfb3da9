"""Tasks that train nothing, and say what they do; as a script, it executes some.

python -m tests.support.fake_task FOLDER KIND [KIND ...]
"""

import dataclasses
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Fake:
    """Its row holds `value` times the seed; `kind` says what else happens, until all is healthy."""

    value: float = 1.0
    kind: str = "quick"
    measures: tuple[Callable, ...] = ()
    dataset: str | None = None

    def rows(self, seed, folder, data_dir):
        place = folder.parent.parent  # which outlives the run's folder
        with (place / "diary.txt").open("a") as file:
            file.write(f"{folder.name}\n")
        with (folder / "tries.txt").open("a") as file:
            file.write("x")
        if not (place / "healthy").exists():
            {"fails": fail, "dies": die, "saves": save, "waits": wait}.get(self.kind, id)(folder)
        row = {"result": self.value * seed, "tries": len((folder / "tries.txt").read_text())}
        return [row | {measure.__name__: measure(row) for measure in self.measures}]


def double(row):
    return 2 * row["result"]


def fail(folder):
    raise ZeroDivisionError("one by nothing")


def die(folder):
    os._exit(1)


def wait(folder):
    (folder / "under way").touch()
    time.sleep(120)


def save(folder):
    """Ends as training does: after a while, having saved itself."""
    from zoo.training.callbacks import Terminated

    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    (folder / "under way").touch()
    try:
        for _ in range(1200):
            time.sleep(0.1)
            if told:
                time.sleep(0.5)
                (folder / "saved.txt").write_text(f"told {len(told)} time(s)")
                raise Terminated("SIGTERM: saved", signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def runs(*tasks):
    from zoo.laboratory.study import Run

    return [Run(f"run{i}", {"which": i}, task) for i, task in enumerate(tasks)]


def main(folder, kinds):
    from zoo.laboratory.execute import execute

    tasks = [Fake(kind=kind) for kind in kinds]
    try:
        done = execute(runs(*tasks), [1], folder / "runs", jobs=2)
    except KeyboardInterrupt:
        sys.exit(130)
    print(
        [row["which"] for row in done.rows if "result" in row],
        sorted(p.name for p in done.failures),
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
