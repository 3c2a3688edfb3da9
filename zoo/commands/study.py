"""Runs a study: `python scripts/study.py preferences --scale cpu --data-dir DIR`."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

from zoo.commands.common import call, silent_libraries

with silent_libraries():
    import tensorflow as tf
    import tyro
    from absl import logging

    from zoo.laboratory import results
    from zoo.laboratory.execute import execute
    from zoo.laboratory.studies import studies


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs a study, and says which of the published claims hold.

    Runs that are done are not repeated, and training that was interrupted goes on: to add seeds,
    give all of them. Prints a table of claims, and writes result.json, figures and events for
    TensorBoard.

        python scripts/study.py synthetic
        python scripts/study.py preferences --scale cpu --data-dir ~/tensorflow_datasets
        python scripts/study.py preferences --scale cpu --seeds 0 1 2 3 4
        python scripts/report.py runs/studies           # a page of all results
    """

    study: Annotated[str | None, tyro.conf.Positional] = None
    """Its name; without it, all studies are listed."""
    scale: Literal["smoke", "cpu", "full"] = "cpu"
    """smoke: seconds, to see that it works. cpu: a small version, for 2 cores. full: as near to
    the papers' recipes as the models of this repository and some GPUs come."""
    seeds: tuple[int, ...] | None = None
    """Seeds to train with. None: those of the scale. Verdicts leave out the seeds on which the
    study's criteria were chosen."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets. None: ~/tensorflow_datasets."""
    output: Path = Path("runs/studies")
    """Folder below which each study and scale has a folder."""
    jobs: int | None = None
    """Runs at a time, which share the machine. None: one for each core, at most 4; one alone on
    GPUs, and where time is measured."""


def main(args=None):
    options = tyro.cli(Options, args=args)
    logging.set_verbosity(logging.ERROR)
    call(run, options, "interrupted; the same command goes on")


def run(options):
    """Does the runs that are missing, then judges, prints and draws."""
    known = studies()
    if options.study is None:
        print(listing(known))
        return
    if options.study not in known:
        raise ValueError(f"Unknown study {options.study!r}. Known: {', '.join(known)}")
    study = known[options.study]
    scale = study.scales[options.scale]
    seeds = scale.seeds if options.seeds is None else options.seeds
    if len(set(seeds)) < len(seeds) or not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must differ from each other, and be 0 or more. Received: {seeds}")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs must be positive. Received: {options.jobs}")
    alone = study.timed or tf.config.list_physical_devices("GPU")
    jobs = options.jobs or (1 if alone else min(4, os.cpu_count() or 1))
    folder = options.output / f"{options.study}-{options.scale}"
    runs = study.plan(**scale.settings)
    print(f"{options.study}: {study.question}\n{len(runs)} runs for each of {len(seeds)} seeds")
    if scale.minutes:
        print(f"all seeds of this scale have taken {scale.minutes:.0f} minutes on 2 cores")
    print(f"folder: {folder}\n")
    rows, seconds, failures = execute(
        runs, seeds, folder / "runs", options.data_dir, jobs, study.replicas
    )
    found = results.result(
        options.study, study, options.scale, seeds, command(options), rows, seconds / jobs, failures
    )
    written = results.write(folder, found, study, rows)
    print(results.text(found), "", *written, sep="\n")
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed; their log.txt says why")


def command(options):
    """What makes the same result elsewhere, where the data is in another place."""
    words = ["python scripts/study.py", options.study, "--scale", options.scale]
    if options.seeds is not None:
        words += ["--seeds", *map(str, options.seeds)]
    return " ".join(words + ["--data-dir DIR"] * (options.data_dir is not None))


def listing(known):
    """What there is to run."""
    lines = ["python scripts/study.py STUDY [--scale smoke|cpu|full]; --help says more", ""]
    for name, study in known.items():
        minutes = study.scales["cpu"].minutes
        time = f" (cpu: {minutes:.0f} minutes)" if minutes else ""
        lines.append(f"{name:<14}{study.question}{time}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
