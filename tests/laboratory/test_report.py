"""scripts/report.py: what results say is on a page that needs nothing else, and in Markdown."""

import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from keras_norms import page
from zoo.commands import report as script
from zoo.laboratory import results
from zoo.laboratory.judge import FAILS, HOLDS, NOT_TESTED, UNDECIDED
from zoo.laboratory.study import Rows

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def claim(name, verdict, **other):
    facts = {
        "name": name,
        "statement": f"Statement {name}",
        "source": "1806.10779; ARTICLES 2",
        "remark": "",
    }
    facts |= {"measured": "error, BN less GN", "threshold": 0.02, "form": "{:+.1%}"}
    facts |= {"verdict": verdict, "effects": {"0": 0.1, "1": 0.12}, "mean": 0.11, "spread": 0.01}
    facts |= {"interval": [0.05, 0.17], "calibration": {}, "case": "", "published": None}
    return facts | {"corrected": 0.01, "learnt": None} | other


def rows(norms, seeds=(0, 1, 2), **factors):
    """A row for each norm and seed, its measures a bit more for later seeds."""
    return [
        {"seed": seed, "norm": norm, **factors}
        | {m: value + 0.001 * (seed - 1) for m, value in measures.items()}
        for seed in seeds
        for norm, measures in norms.items()
    ]


def write(folder, study, rows=(), claims=(), **other):
    """A result as scripts/study.py writes it."""
    facts = {"study": study, "question": f"What of {study}?", "about": "", "scale": "evidence"}
    facts |= {"settings": {"model": "conv6"}, "command": f"python scripts/study.py {study}"}
    facts |= {"date": "2026-11-22", "machine": "2 x x86_64", "versions": {"keras": "3.15.1"}}
    facts |= {"seeds": [0, 1, 2], "calibration_seeds": [], "chosen_on_seeds": [100], "minutes": 3.0}
    facts |= {"failures": {}, "claims": list(claims), "tables": []}
    facts |= {"began": "2026-11-22T09:00:00+00:00", "commits": ["abc"]}
    facts |= {"criteria": {"commit": "abd", "date": "2026-11-22T08:00:00+00:00"}}
    facts |= {"figures": {"error": f"The error of {study}."}} | other
    place = folder / f"{study}-{facts['scale']}"
    place.mkdir(parents=True)
    (place / "error.png").write_bytes(PIXEL)
    (place / "result.json").write_text(json.dumps(facts))
    results.write_rows(place / "rows.json.gz", Rows(rows))
    return place


BATCHES = [
    *rows({"bn": {"error": 0.3}, "gn": {"error": 0.35}}, batch=32),
    *rows({"bn": {"error": 0.5}, "gn": {"error": 0.35}}, batch=2),
]


@pytest.fixture
def written(tmp_path):
    """Writes a report of what is below a folder: its Markdown and its HTML."""

    def write(*options, page=tmp_path / "page.html", text=tmp_path / "docs" / "RESULTS.md"):
        known = [str(tmp_path / "runs")]
        script.main([*(options or known), "--html", str(page), "--markdown", str(text)])
        return text.read_text(), page.read_text()

    return write


def test_page_is_self_contained_and_shows_all(tmp_path, written):
    claims = [claim("a", HOLDS), claim("b", FAILS), claim("c", UNDECIDED, remark="A remark.")]
    claims += [claim("d", NOT_TESTED)]
    table = {"title": "Errors", "header": ["norm", "batch 2"], "cells": {"bn": ["50.0% ± 0.1%"]}}
    failures = {"gn-b2-s1": "ValueError: no <loss>"}
    runs = tmp_path / "runs"
    write(runs, "batch_size", BATCHES, claims, tables=[table], failures=failures)
    text, page = written()
    links = re.findall(r'(src|href)="(.*?)"', page)
    allowed = {"src": "data:image/png;base64,", "href": ("#", "https://arxiv.org/abs/")}
    assert all(link.startswith(allowed[kind]) for kind, link in links)
    assert not re.search(r"<link|<script|@import|url\(", page)
    anchors = {link for _, link in links if link.startswith("#")}
    assert anchors and all(page.count(f'id="{anchor[1:]}"') == 1 for anchor in anchors)
    for shown in (
        "Statement a",
        "A remark.",
        "50.0% ± 0.1%",
        "gn-b2-s1",
        "The error of batch_size",
    ):
        assert shown in page and shown in text.replace("\\", "")
    for verdict in ("✔ holds", "✘ does not", "? undecided", "– not tested"):
        assert f">{verdict}</span>" in page and f"| {verdict} |" in text
    for fact in ("python scripts/study.py batch_size", "2026-11-22", "2 x x86_64", "keras 3.15.1"):
        assert fact in page
    assert "+10.0%, +12.0%" in page  # by seed


def test_answers_come_from_rows(tmp_path, written):
    runs = tmp_path / "runs"
    write(runs, "batch_size", BATCHES)
    replicas = {1: {"bn": 0.3, "gn": 0.3}, 8: {"bn": 0.4, "gn": 0.3}}
    spread = [
        row
        for count, errors in replicas.items()
        for row in rows(
            {n: {"error": e, "seconds_per_step": 0.01 * count} for n, e in errors.items()},
            replicas=count,
        )
    ]
    write(runs, "distributed", spread)
    costs = {"none": (1, 0.5), "bn": (1.2, 0.3), "sn": (2.0, 0.4)}
    measures = {n: {"training_ratio": t, "error": e} for n, (t, e) in costs.items()}
    untrained = {norm: {"training_ratio": time} for norm, (time, _) in costs.items()}
    costs = [*rows(measures, model="resnet20"), *rows(untrained, model="convnet")]
    write(runs, "cost", costs)
    epochs = {"none": [3.0, 2.0, 1.0, 1.5], "ln": [2.5, 0.9, 0.8, 0.7]}
    read = {n: {"cross_entropy": 1.0, "curves": {"val_loss": c}} for n, c in epochs.items()}
    lstm = {"model": "LSTM", "data": "digits"}
    write(
        runs,
        "sequence",
        [{"seed": s, "norm": n, **lstm, **m} for s in (0, 1, 2) for n, m in read.items()],
    )
    styles = {"bn": {"accuracy": 0.8}, "in": {"accuracy": 0.8997}}
    write(runs, "style", rows(styles, **{"style is": "a nuisance"}))
    text, _ = written()
    text = text.replace("\\", "")
    for sentence in (
        "From 32 to 2 samples in a batch, the test error (in points) rises with bn (+20.0); "
        "shows no clear change with gn (+0.0).",
        "From 1 to 8 replicas, the test error (in points) rises with bn (+10.0);",
        "the time of a step, relative to that with bn, is 1.00 with bn and 1.00 with gn.",
        "the test error (means over seeds): no norm (1.00 x, 50.0%) and bn (1.20 x, 30.0%).",
        "a training step takes, relative to no norm: no norm 1.00 x, bn 1.20 x and sn 2.00 x.",
        "of an LSTM without a norm, one with ln needs 67% of the epochs on digits (medians",
    ):
        assert sentence in text
    assert "| style is a nuisance | in | test accuracy 90.0% | - |" in text


def test_runs_that_are_missing_are_not_passed_over(tmp_path, written):
    diverged = [{"seed": 1, "norm": "sn", "batch": 2, "diverged": "at step 3"}]
    one = rows({"sn": {"error": 0.1}}, seeds=(0,), batch=2)
    both = rows({"sn": {"error": 0.2}, "wn": {"error": 0.2}}, batch=32)
    lost = [{"seed": seed, "norm": "wn", "batch": 2} for seed in (0, 1, 2)]
    write(tmp_path / "runs", "batch_size", BATCHES + one + diverged + both + lost)
    text, _ = written()
    assert "shows no clear change with gn (+0.0) and sn (-10.0)" in text
    assert "is not known with wn" in text
    assert "| gn | test error 35.0% | sn (without some of its runs), wn (without" in text


def test_what_was_not_run_is_named(tmp_path, written):
    write(tmp_path / "runs", "synthetic")
    text, page = written()
    for study in ("distributed", "cost", "style", "preferences"):
        assert "<strong>no verdicts yet</strong>. " in page
        assert f"`python scripts/study.py {study} --scale evidence` tests it" in text
    assert "study.py synthetic --scale evidence` tests it" not in text


@pytest.mark.parametrize(
    "facts, warning",
    [
        ({"scale": "smoke"}, "smoke scale is a quick look, which gives no verdicts"),
        ({"seeds": []}, "so nothing is judged"),
        ({"failures": {"run": "why"}}, "1 runs failed"),
        ({"rows": [{"seed": 0, "norm": "bn", "diverged": "loss"}]}, "1 runs diverged"),
        ({"criteria": None}, "it is not known when its criteria were fixed"),
        ({"began": "2026-11-22T07:00:00+00:00"}, "were last changed after the first run had begun"),
        ({"figures": {"gone": "Not there."}}, "Not there. Missing."),
        ({}, None),
    ],
)
def test_weak_results_say_so(tmp_path, written, facts, warning):
    write(tmp_path / "runs", "style", **facts)
    text, _ = written()
    assert warning is None or warning in text
    if facts.keys() - {"figures"} == set():
        assert "⚠ [style" not in text


@pytest.mark.parametrize("scale, counts", [("smoke", 0), ("cpu", 0), ("evidence", 1), ("full", 1)])
def test_only_nets_that_can_learn_give_verdicts(tmp_path, written, scale, counts):
    write(tmp_path / "runs", "style", claims=[claim("a", HOLDS)], scale=scale)
    text, _ = written()
    assert f"These are {counts} claims" in text
    assert ("Statement a" in text) == bool(counts)


def test_cases_of_a_claim_stand_together(tmp_path, written):
    cases = [("wide", HOLDS), ("deep", HOLDS), ("both", FAILS), ("none", NOT_TESTED)]
    claims = [claim("a", verdict, case=case, published=0.3) for case, verdict in cases]
    learnt = {"statement": "each net sees", "form": "{:.0%}", "least": 0.5}
    claims[3]["learnt"] = learnt | {"values": {"0": 0.4, "1": 0.6}}
    write(tmp_path / "runs", "preferences", claims=claims)
    text, _ = written()
    text = text.replace("\\", "")
    assert (
        "> (a) Statement a: holds in wide, with an effect of +11.0% ± 1.0%, n=2 "
        "(published: +30.0%). Of its 4 cases, 2 hold, 1 does not hold and 1 is not tested." in text
    )
    table = text[text.index("| claim | case | effect |") :].splitlines()[2:6]
    assert [line.split(" | ")[0].strip("| ") for line in table] == ["(a) Statement a", "", "", ""]
    assert [line.split(" | ")[1] for line in table] == [case for case, _ in cases]
    counts = "| (a) Statement a | 2 | 1 |  | 1 | [preferences (evidence)](#preferences-evidence) |"
    assert text.count(counts) == 3  # beside two of the questions, and among all claims
    paper = "[1806.10779](https://arxiv.org/abs/1806.10779)"
    assert text.count(f"Source: {paper}; articles, no. 2.") == 1
    assert text.startswith("# Which") and "These are 1 claims in 4 cases" in text
    assert "Learnt means that each net sees: least 40%. Claims about these nets are not" in text


@pytest.mark.parametrize("text", ["a <b>& |c", "*s* _u_ `t` [l](x)", "<script>", "a\n\nb"])
def test_texts_are_shown_as_they_are(tmp_path, written, text):
    runs = tmp_path / "runs"
    other = {"question": text, "failures": {"run": text}, "figures": {"error": text}}
    write(runs, "style", claims=[claim("a", HOLDS, statement=text)], **other)
    _, page = written()
    plain = " ".join(text.split())
    escaped = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = page.replace("&#124;", "|")
    assert f"<td>(a) {escaped}" in shown
    assert f"<p>{escaped}</p>" in shown
    assert f"failed: run: {escaped}</p>" in shown
    assert f"<em>{escaped}</em>" in shown


def test_figures_exist_where_markdown_links_to(tmp_path, written):
    write(tmp_path / "runs" / "with space (1)", "style")
    text, _ = written(str(tmp_path / "runs" / "with space (1)"))
    links = re.findall(r"!\[.*?\]\((.*?)\)\n", text)
    assert links and all((tmp_path / "docs" / unquote(link)).exists() for link in links)


def test_collects_what_can_be_committed(tmp_path, written):
    runs, docs = tmp_path / "runs", tmp_path / "docs" / "results"
    place = write(runs, "batch_size", BATCHES, [claim("a", HOLDS)])
    (docs / "batch_size").mkdir(parents=True)
    (docs / "batch_size" / "old.png").write_bytes(PIXEL)
    text, _ = written(str(place), "--collect", str(docs))
    names = {"result.json", "rows.json.gz", "error.png"}
    assert {p.name for p in (docs / "batch_size").iterdir()} == names
    assert "(results/batch_size/error.png)" in text
    # The figure is drawn from the rows, and the same again from the files that are committed.
    drawn = (docs / "batch_size" / "error.png").read_bytes()
    assert len(drawn) > len(PIXEL)
    (docs / "batch_size" / "error.png").unlink()
    again, _ = written(str(docs), "--redraw")
    assert (docs / "batch_size" / "error.png").read_bytes() == drawn and again == text
    again, _ = written(str(docs), "--collect", str(docs))  # onto itself
    assert {p.name for p in (docs / "batch_size").iterdir()} == names and again == text


def test_rows_lose_nothing_but_digits(tmp_path):
    rows = Rows([{"seed": 0, "curves": {"loss": [1 / 3, math.nan]}, "norm": "bn", "steps": 123456}])
    results.write_rows(tmp_path / "rows", rows)
    (row,) = results.read_rows(tmp_path / "rows")
    expected = {"seed": 0, "curves": {"loss": [0.33333, None]}, "norm": "bn", "steps": 123456}
    assert row == expected
    first = (tmp_path / "rows").read_bytes()
    results.write_rows(tmp_path / "rows", rows)
    assert (tmp_path / "rows").read_bytes() == first


@pytest.mark.parametrize("content", [None, "{", "[]", '{"study": "style"}'])
def test_errors_are_one_line(tmp_path, capsys, content):
    if content:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(SystemExit, match="2"):
        script.main([str(tmp_path)])
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and str(tmp_path) in error


def test_two_results_of_a_study(tmp_path, written, capsys):
    write(tmp_path / "runs", "style", BATCHES, scale="smoke")
    write(tmp_path / "runs", "style", BATCHES)
    text, _ = written()
    assert '<a id="style-smoke"></a>' in text and '<a id="style-evidence"></a>' in text
    with pytest.raises(SystemExit, match="2"):
        written(str(tmp_path / "runs"), "--collect", str(tmp_path / "kept"))
    assert "Two results of one study" in capsys.readouterr().err


def test_a_larger_scale_is_not_replaced(tmp_path, written, capsys):
    kept = str(tmp_path / "kept")
    for scale in ("evidence", "smoke"):
        write(tmp_path / "runs", "batch_size", BATCHES, scale=scale)
    written(str(tmp_path / "runs" / "batch_size-evidence"), "--collect", kept)
    before = (tmp_path / "kept" / "batch_size" / "result.json").read_text()
    with pytest.raises(SystemExit, match="2"):
        written(str(tmp_path / "runs" / "batch_size-smoke"), "--collect", kept)
    assert "larger scale 'evidence'" in capsys.readouterr().err
    assert (tmp_path / "kept" / "batch_size" / "result.json").read_text() == before


def test_style_sheet_is_shipped():
    assert Path(page.__file__).with_name("page.css").exists()
