"""scripts/study.py as a command: what it prints and writes, and that no run is repeated."""

import json

import pytest
import tensorflow as tf

from tests.support.child import run
from zoo.commands import study as script
from zoo.laboratory.results import ROWS, read_rows
from zoo.laboratory.studies import studies

STUDIES = studies()
# The small versions leave out text, which is downloaded, and memory, which needs processes.
UNMEASURED = ("bits_per_character", "memory_mib")
PNG = b"\x89PNG\r\n\x1a\n"


def run_study(arguments):
    """What it printed in a process of its own, as a user starts it."""
    done = run("scripts/study.py", *arguments, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def smoke(name, output):
    """The arguments of a small version."""
    return [name, "--scale", "smoke", "--seeds", "0", "--output", str(output)]


def read_result(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "result.json").read_text(), parse_constant=refuse)


def events(folder):
    """The tags of what TensorBoard shows."""
    from tensorboard.compat.proto.event_pb2 import Event

    (path,) = folder.glob("*tfevents*")
    data = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return {value.tag for record in data for value in Event.FromString(record).summary.value}


def assert_complete(name, folder, printed):
    """All runs have been done, and everything was written."""
    study, result = STUDIES[name], read_result(folder)
    planned = study.plan(**study.scales["smoke"].settings)
    rows = read_rows(folder / ROWS)
    assert rows.values("run") == [run.name for run in planned]
    assert rows.values("seed") == result["seeds"] == [0] and not result["failures"]
    assert not any({"failed", "diverged"} & row.keys() for row in rows)
    assert [claim["name"] for claim in result["claims"]] == [claim.name for claim in study.claims]
    assert {claim["verdict"] for claim in result["claims"]} <= {"undecided", "not tested"}
    # The claims of `sequence` are about text, and about norms that its small version leaves out.
    assert name == "sequence" or any(claim["mean"] is not None for claim in result["claims"])
    for table in study.tables:
        chosen = rows.where(**table.where)
        known = not chosen or chosen.mean(table.measure) is not None
        assert known or table.measure in UNMEASURED, table.title
    assert result["figures"]
    for figure in result["figures"]:
        assert (folder / f"{figure}.png").read_bytes().startswith(PNG)
    tables = {table.title for table in study.tables}
    assert events(folder / "tensorboard") == {"claims", *tables, *result["figures"]}
    for claim in study.claims:
        assert f"({claim.name}) {claim.statement}" in printed
    for shown in (study.question, f"folder: {folder}", *tables, str(folder / "result.json")):
        assert shown in printed


def changes(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.process
def test_a_study_is_run_once(tmp_path, capsys):
    folder = tmp_path / "synthetic-smoke"
    arguments = [*smoke("synthetic", tmp_path), "--jobs", "1"]
    first = run_study(arguments)
    assert_complete("synthetic", folder, first)
    result, before = read_result(folder), changes(folder / "runs")
    script.main(arguments)
    again, errors = capsys.readouterr()
    assert_complete("synthetic", folder, again)
    assert changes(folder / "runs") == before and read_result(folder) == result
    assert again == first and not errors
    assert result["command"].startswith("python scripts/study.py synthetic --scale smoke")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDIES if name != "synthetic"])
def test_a_small_version_of_every_study(name, tmp_path):
    assert_complete(name, tmp_path / f"{name}-smoke", run_study(smoke(name, tmp_path)))


def test_without_a_name_all_studies_are_listed(capsys):
    script.main([])
    out, err = capsys.readouterr()
    lines = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert list(lines) == list(STUDIES) and not err
    assert all(study.question in lines[name] for name, study in STUDIES.items())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["style_transfer"], "Unknown study 'style_transfer'. Known: batch_size, "),
        (["synthetic", "--seeds", "1", "2", "1"], "seeds must differ from each other"),
        (["synthetic", "--seeds", "-1", "0"], "be 0 or more. Received: (-1, 0)"),
        (["synthetic", "--seeds"], "seeds must differ"),
        (["synthetic", "--jobs", "0"], "jobs must be positive"),
        (["synthetic", "--jobs", "-2"], "jobs must be positive"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        script.main([*arguments, "--scale", "smoke", "--output", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and message in line
    assert not out and not (tmp_path / "out").exists()
