"""Runs a study: `python scripts/study.py preferences --scale cpu --data-dir DIR`."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from zoo.commands.common import parse, run_command, silent_libraries

with silent_libraries():
    import tensorflow as tf
    import tyro
    from absl import logging

    from zoo.laboratory import results
    from zoo.laboratory.execute import execute
    from zoo.laboratory.studies import studies
    from zoo.laboratory.study import Study


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs a study, and says which of the published claims hold.

    It prints a table of claims, and writes result.json, figures and events for TensorBoard.

    Complete runs are not repeated, and interrupted training goes on. So to add seeds, give the
    old and the new ones.

        python scripts/study.py synthetic
        python scripts/study.py preferences --scale cpu --data-dir ~/tensorflow_datasets
        python scripts/study.py preferences --scale cpu --seeds 0 1 2 3 4
        python scripts/report.py runs/studies           # writes a page of all results
    """

    study: Annotated[str | None, tyro.conf.Positional] = None
    """The name of the study. Without it, all studies are listed."""
    scale: Literal["smoke", "cpu", "evidence", "full"] = "cpu"
    """How large the study is. smoke: takes seconds, and shows that it works. cpu: a quick look on
    2 cores, in minutes. evidence: hours on 2 cores, for nets that learn; verdicts of this size and
    of full count. full: for GPUs, as near to the papers' recipes as the models here allow."""
    seeds: tuple[int, ...] | None = None
    """Seeds to train with. None: those of the scale. Verdicts ignore the seeds with which the
    criteria of the study were chosen."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets. A set that is not there is downloaded to it. None:
    ~/tensorflow_datasets."""
    output: Path = Path("runs/studies")
    """Folder for the results, in which each study and scale has a folder."""
    jobs: int | None = None
    """Number of runs at a time, which share the machine. None: one for each core, at most 4; a
    single one on GPUs, and for studies that measure time."""


def main(args: Sequence[str] | None = None) -> None:
    options = parse(Options, args)
    logging.set_verbosity(logging.ERROR)
    run_command(run, options, "interrupted; the same command goes on")


def run(options: Options) -> None:
    """Does the missing runs, then judges the claims, prints them and draws the figures."""
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
    done = execute(runs, seeds, folder / "runs", options.data_dir, jobs, study.replicas)
    found = results.result(options.study, study, options.scale, seeds, command(options), done, jobs)
    written = results.write(folder, found, study, done.rows)
    print(results.text(found), "", *written, sep="\n")
    if done.failures:
        raise RuntimeError(f"{len(done.failures)} runs failed; their log.txt says why")


def command(options: Options) -> str:
    """The command that repeats the study elsewhere, with its data in a directory DIR."""
    words = ["python scripts/study.py", str(options.study), "--scale", options.scale]
    if options.seeds is not None:
        words += ["--seeds", *map(str, options.seeds)]
    return " ".join(words + ["--data-dir DIR"] * (options.data_dir is not None))


def listing(known: Mapping[str, Study]) -> str:
    """A line for each study, with its question and its time."""
    lines = [
        "python scripts/study.py STUDY [--scale smoke|cpu|evidence|full]; --help says more",
        "",
    ]
    for name, study in known.items():
        minutes = study.scales["cpu"].minutes
        time = f" (cpu: {minutes:.0f} minutes)" if minutes else ""
        lines.append(f"{name:<14}{study.question}{time}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
