"""Reading preferences back, tables, comparisons, claims, figures and scripts/preferences.py."""

import csv
import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import keras
import matplotlib.colors
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_norms import (
    BatchInstanceNormalization,
    BatchNormalization,
    SwitchableNormalization,
    analysis,
    figures,
    importance,
)
from keras_norms.analysis import Preferences
from keras_norms.comparison import batch_size_claim, blocks, claims, compare

SCRIPT = Path(__file__).parents[2] / "scripts" / "preferences.py"
START = (1 / 3, 1 / 3, 1 / 3)


def switch(mean, variance=None, names=("instance", "layer", "batch")):
    mean = dict(zip(names, mean, strict=True))
    return {"mean": mean, "variance": dict(zip(names, variance or mean.values(), strict=True))}


def cifar_net(blocks):
    """The layer names of a CIFAR ResNet of depth 6 * blocks + 2."""
    return ["stem_norm"] + [
        f"stage{stage}_block{block}_norm{norm}"
        for stage in (1, 2, 3)
        for block in range(1, blocks + 1)
        for norm in (1, 2)
    ]


def make_run(stages, name="run", step=100, blocks=3, **options):
    """A run whose layers have the given IN/LN/BN shares by stage; the stem is as the first."""
    paths = cifar_net(blocks)
    last = {p: switch(stages[max(0, int(p[5]) - 1) if p[5].isdigit() else 0]) for p in paths}
    return Preferences({0: {p: switch(START) for p in paths}, step: last}, name, options)


def write_events(folder, points):
    """Logs `(step, {tag: value})` as any writer of the format would."""
    with tf.summary.create_file_writer(str(folder)).as_default():
        for step, values in points:
            for tag, value in values.items():
                tf.summary.scalar(tag, value, step=step)


def point(batch, path="stem_norm", kinds=("mean", "variance")):
    weights = {"layer": 1 - batch, "batch": batch}
    return {f"switch/{path}/{k}/{s}": w for k in kinds for s, w in weights.items()}


# Tables


def test_importance_is_found_in_nested_models_in_model_order():
    inner = keras.Sequential([keras.Input((4, 4, 2)), SwitchableNormalization(name="z_norm")])
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            BatchNormalization(name="plain"),
            BatchInstanceNormalization(name="gated"),
            keras.Sequential([inner], name="outer"),
            SwitchableNormalization(name="a_norm", statistics=("layer", "batch")),
        ]
    )
    table = importance(model)
    assert list(table) == ["gated", f"outer/{inner.name}/z_norm", "a_norm"]
    assert table["gated"] == {"gate": {"batch": 1.0, "instance": 0.0}}
    half = {"layer": 0.5, "batch": 0.5}
    assert table["a_norm"] == {"mean": half, "variance": half}
    assert importance(keras.Sequential([SwitchableNormalization()])) == {}  # not built
    assert importance(keras.Sequential([keras.Input((4,)), layers.Dense(2)])) == {}


def test_means_change_and_entropy():
    half = {"layer": 0.5, "batch": 0.5}
    start = {
        "stem_norm": switch(START),
        "stage1_norm1": switch(START),
        "net/stage1_norm2": {"mean": half, "variance": half},
        "stage2_gate": {"gate": {"batch": 1.0, "instance": 0.0}},
    }
    end = {
        "stem_norm": switch((0.5, 0.3, 0.2), (0.1, 0.1, 0.8)),
        "stage1_norm1": switch((0.2, 0.4, 0.4)),
        "net/stage1_norm2": {"mean": {"layer": 0.9, "batch": 0.1}, "variance": half},
        "stage2_gate": {"gate": {"batch": 0.25, "instance": 0.75}},
    }
    run = Preferences({0: start, 7: end})
    means = run.means()
    assert list(means) == ["stem", "stage1", "stage2", "net"]
    assert means["stem"]["both"] == pytest.approx({"instance": 0.3, "layer": 0.2, "batch": 0.5})
    # A statistic that a layer does not use counts as 0.
    expected = {"instance": 0.1, "layer": 0.65, "batch": 0.25}
    assert means["stage1"]["mean"] == pytest.approx(expected)
    assert means["stage2"] == {"gate": {"instance": 0.75, "batch": 0.25}}
    assert means["net"]["mean"]["instance"] == pytest.approx((0.5 + 0.2) / 3)
    for kinds in means.values():
        for shares in kinds.values():
            assert sum(shares.values()) == pytest.approx(1)
    assert run.means(step=0)["stem"]["both"] == pytest.approx(start["stem_norm"]["mean"])
    assert run.change()["stem_norm"]["variance"]["batch"] == pytest.approx(0.8 - 1 / 3)
    assert run.change()["stage2_gate"]["gate"]["batch"] == -0.75
    rows = {(row["layer_path"], row["kind"]): row for row in run.table()}
    assert len(rows) == 3 * 3 + 1
    row = rows["net/stage1_norm2", "variance"]
    assert row["entropy"] == pytest.approx(math.log(2)) and row["normalized_entropy"] == 1
    assert row["instance"] is None and row["stage"] == "stage1"
    assert rows["stem_norm", "both"]["change_batch"] == pytest.approx(0.5 - 1 / 3)
    assert Preferences({0: end}).change() == {}
    assert analysis.entropy({"layer": 1.0}, normalized=True) == 0
    assert analysis.entropy({"layer": 1.0, "batch": 0.0}) == 0


def test_text_shows_each_layer_and_the_means():
    run = make_run([(0.5, 0.2, 0.3)] * 3)
    lines = run.text().splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["stage2_block3_norm1"] == ["0.50", "0.20", "0.30"] * 3 + ["0.94", "IN", "+0.17"]
    assert rows["net"] == ["0.50", "0.20", "0.30"] * 3 + ["0.94"]
    assert set(cifar_net(3)) | {"stem", "stage1", "stage2", "stage3"} < set(rows)
    assert max(map(len, lines)) <= 100
    assert "no history" in Preferences({0: run.last}).text()


def test_files_hold_the_whole_table(tmp_path):
    run = make_run([(0.5, 0.2, 0.3)] * 3, seed=1)
    run.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 19 * 3
    assert {(r["layer_path"], r["kind"]): float(r["batch"]) for r in rows}[
        "stage3_block3_norm2", "variance"
    ] == 0.3
    assert float(rows[0]["change_instance"]) == pytest.approx(0.5 - 1 / 3)
    run.to_json(tmp_path / "table.json")
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["options"] == {"seed": 1}
    assert content["history"]["100"]["stem_norm"]["mean"]["instance"] == 0.5
    assert content["means"]["net"]["both"]["batch"] == pytest.approx(0.3)
    assert len(content["layers"]) == len(rows)


def test_diverged_runs_stay_readable(tmp_path):
    run = make_run([(math.nan,) * 3] * 3)
    assert "nan" in run.text()
    run.to_json(tmp_path / "nan.json")
    text = (tmp_path / "nan.json").read_text()
    assert "NaN" not in text and json.loads(text)["means"]["net"]["mean"]["batch"] is None
    assert all("cannot be judged" in sentence for sentence in claims(run))
    figures.pixels(figures.stacked_bars(run))
    figures.pixels(figures.heat_map(run))


# Reading


def test_curves_are_read_by_tag_whatever_their_order(tmp_path):
    values = {**point(0.25, "b/x-y.z"), **point(0.75, "a")}
    write_events(tmp_path, [(3, dict(sorted(values.items(), reverse=True)))])
    last = analysis.read(tmp_path).last
    assert set(last) == {"a", "b/x-y.z"}
    assert last["b/x-y.z"] == {kind: {"layer": 0.75, "batch": 0.25} for kind in last["a"]}


def test_a_restarted_run_replaces_what_was_there(tmp_path):
    write_events(tmp_path, [(step, point(step / 100)) for step in (0, 10, 20, 30)])
    write_events(tmp_path, [(step, point(0.9)) for step in (20, 25)])
    history = analysis.read(tmp_path).history
    batch = {step: table["stem_norm"]["mean"]["batch"] for step, table in history.items()}
    assert batch == pytest.approx({0: 0, 10: 0.1, 20: 0.9, 25: 0.9})


def test_the_step_a_killed_run_was_writing_is_left_out(tmp_path):
    write_events(tmp_path, [(0, point(0.5)), (9, point(0.4)), (18, point(0.3, kinds=("mean",)))])
    assert list(analysis.read(tmp_path).history) == [0, 9]


def test_tags_of_other_writers_are_passed_over(tmp_path):
    values = point(0.5) | {"gate/gru/reset": 0.1, "switch/a/mean/other": 0.2}
    write_events(tmp_path, [(0, values), (5, point(0.25))])
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        tf.summary.histogram("gate/gru/batch", [0.1, 0.2], step=7)
    assert list(analysis.read(tmp_path).history) == [0, 5]


def test_long_curves_are_read_whole(tmp_path):
    write_events(tmp_path, [(step, point(0.5)) for step in range(300)])
    assert list(analysis.read(tmp_path).history) == list(range(300))


def saved_model(path):
    model = keras.Sequential([keras.Input((4, 4, 2)), SwitchableNormalization(name="stem_norm")])
    model.layers[0].mean_logits.assign([2.0, 1.0, 0.0])
    model.save(path)
    return importance(model)


def test_run_folders_and_model_files(tmp_path):
    table = saved_model(tmp_path / "model.keras")
    run = analysis.read(tmp_path / "model.keras")
    assert run.last == table and run.change() == {} and run.log_dir is None
    # A run folder without events falls back on its model; with events they come first.
    (tmp_path / "run.json").write_text(json.dumps({"options": {"seed": 3}, "results": None}))
    assert analysis.read(tmp_path).last == table
    folder = tmp_path / "tensorboard" / "switches"
    write_events(folder, [(0, point(0.5)), (5, point(0.3))])
    write_events(tmp_path / "tensorboard" / "train", [(0, {"epoch_loss": 1.0})])
    run = analysis.read(str(tmp_path))
    assert list(run.history) == [0, 5] and run.options == {"seed": 3}
    assert run.log_dir == folder and run.name == str(tmp_path)


def nothing(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def other_events(folder):
    write_events(folder, [(0, {"epoch_loss": 1.0, "switch/": 1.0, "gate/x": 1.0})])
    return folder


def two_runs(folder):
    for name in "ab":
        write_events(folder / name, [(0, point(0.5))])
    return folder


def two_models(folder):
    write_events(folder, [(0, point(0.5, "one"))])
    write_events(folder, [(1, point(0.5, "two"))])
    return folder


def model_without_switches(folder):
    keras.Sequential([keras.Input((4,)), layers.Dense(2)]).save(folder / "model.keras")
    return folder / "model.keras"


def no_model(folder):
    (folder / "model.keras").write_text("nonsense")
    return folder / "model.keras"


def broken_record(folder):
    write_events(folder, [(0, point(0.5))])
    (folder / "run.json").write_text('{"options": ')
    return folder


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: folder / "nowhere", "nowhere does not exist. Give a run folder"),
        (nothing, r"no TensorBoard event there has a tag 'switch/...'.*SwitchLogger\(log_dir\)"),
        (other_events, "No switches or gates below"),
        (two_runs, "several runs; name one of: .*a, .*b"),
        (two_models, "never all logged at one step"),
        (model_without_switches, "no layer with switches or gates"),
        (no_model, "cannot be read as a Keras model"),
        (broken_record, "not the run.json of a training run"),
    ],
)
def test_what_cannot_be_read_says_why(make, message, tmp_path, monkeypatch, capsys):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        analysis.read(path)
    # The script says the same in one line.
    with pytest.raises(SystemExit) as exit:
        script().main([str(path)])
    assert exit.value.code == 2
    output = capsys.readouterr()
    error = output.err.removeprefix("Loading TensorFlow ...\n")  # where no test has done so
    assert error.startswith("error: ") and error.count("\n") == 1
    assert output.out == ""


# Comparison and claims

PAPER = [(0.5, 0.2, 0.3), (0.2, 0.2, 0.6), (0.2, 0.5, 0.3)]


def test_seeds_are_averaged_and_options_compared():
    shares = {(32, 0): 0.5, (32, 1): 0.7, (2, 0): 0.2, (2, 1): 0.2, (2, 2): 0.2}
    runs = [
        make_run(
            [((1 - share) / 2, (1 - share) / 2, share)] * 3,
            f"b{size}-s{seed}",
            **{"norm": "sn", "batch_size": size, "seed": seed, "log_dir": f"{size}/{seed}"},
        )
        for (size, seed), share in shares.items()
    ]
    comparison = compare(runs)
    assert list(comparison.groups) == ["batch_size=2", "batch_size=32"]
    assert [len(group) for group in comparison.groups.values()] == [3, 2]
    means = comparison.means()
    assert list(means["batch_size=32"]) == ["net", "stem", "stage1", "stage2", "stage3"]
    mean, spread = means["batch_size=32"]["net"]["both"]["batch"]
    assert (mean, spread) == pytest.approx((0.6, math.sqrt(0.02)))
    assert means["batch_size=2"]["stage3"]["mean"]["layer"] == pytest.approx((0.4, 0))
    text = comparison.text()
    assert "batch_size=32 (2 runs)   0.20 0.20 0.60" in text and text.count("(3 runs)") == 5
    assert "BN 0.60 to 0.20" in batch_size_claim(comparison)
    assert "so it is here" in batch_size_claim(comparison)
    assert "2 and 3 runs" in batch_size_claim(comparison)
    rows = comparison.table()
    assert len(rows) == 2 * 5 * 3
    assert rows[0]["batch_spread"] is not None and rows[0]["runs"] == 3


def test_runs_without_options_stand_alone():
    comparison = compare([make_run(PAPER, "a"), make_run(PAPER, "b")])
    assert list(comparison.groups) == ["a", "b"]
    assert comparison.means()["a"]["net"]["both"]["batch"][1] is None
    with pytest.raises(ValueError, match="a is given twice"):
        compare([make_run(PAPER, "a"), make_run(PAPER, "a")])
    with pytest.raises(ValueError, match="share options and seed"):
        compare([make_run(PAPER, name, norm="sn", seed=0) for name in "ab"])


def test_claims_follow_the_shares():
    a, b, c = claims(make_run(PAPER))
    assert a.startswith("(a) IN") and "so it is here (IN takes 0.50 in stem, 0.50 in stage1," in a
    assert b.startswith("(b) BN") and "0.60 in stage2, 0.30 in stage3)." in b
    assert c.startswith("(c) LN") and "so it is here (LN takes" in c
    assert "so it is here" in b
    reverse = claims(make_run([(0.1, 0.5, 0.4), (0.3, 0.5, 0.2), (0.5, 0.1, 0.4)]))
    assert all("not so here" in sentence for sentence in reverse) and len(reverse) == 3
    *even, early = claims(make_run([(0.34, 0.33, 0.33), START, (0.33, 0.34, 0.33)]))
    assert all("no clear difference here" in sentence for sentence in even)
    assert "No weight has moved by more than 0.01" in early
    two = switch((0.5, 0.5), names=("layer", "batch"))
    (a, _, _) = claims(Preferences({0: {f"s{i}_norm": two for i in range(4)}}))
    assert "cannot be judged" in a and "IN" in a
    (few,) = claims(Preferences({0: {"s_norm": two}}))
    assert "at least 3 layers" in few
    (gates,) = claims(Preferences({0: {"s": {"gate": {"batch": 0.9, "instance": 0.1}}}}))
    assert "BN 0.90 and IN 0.10" in gates


def test_blocks_are_the_stem_and_the_stages_or_thirds():
    def layer(share):
        return switch((share, 1 - share, 0.0))

    net = {"stem_norm": layer(0.9), "stage1_norm1": layer(0.2), "stage1_norm2": layer(0.4)}
    net |= {"stage2_norm1": layer(0.5), "a/stage3_norm1": layer(0.6)}
    found = {name: kinds["mean"]["instance"] for name, kinds in blocks(net).items()}
    expected = {"stem": 0.9, "stage1": 0.3, "stage2": 0.5, "stage3": 0.6}
    assert found == pytest.approx(expected) and list(found) == list(expected)
    plain = {"stem_norm": layer(0.9)} | {f"norm_{i}": layer(i / 10) for i in range(6)}
    found = {name: kinds["both"]["instance"] for name, kinds in blocks(plain).items()}
    thirds = {"first third": 0.05, "middle third": 0.25, "last third": 0.45}
    assert found == pytest.approx({"stem": 0.9} | thirds)


def test_batch_size_claim_needs_batch_sizes_and_names_other_differences():
    one = compare([make_run(PAPER, batch_size=32, seed=0)])
    assert "needs runs with switches at several batch sizes" in batch_size_claim(one)
    runs = [make_run(PAPER, f"{n}", batch_size=n, epochs=n, seed=0) for n in (2, 8)]
    sentence = batch_size_claim(compare(runs))
    assert "no clear difference" in sentence and "also differ in epochs." in sentence
    up = [make_run([(0.2, 0.8 - b / 20, b / 20)] * 3, f"{b}", batch_size=10 - b) for b in (2, 8)]
    assert "not so here" in batch_size_claim(compare(up))


# Figures


def boxes(figure, texts):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


@pytest.mark.parametrize("blocks", [3, 18])  # ResNet-20 and ResNet-110
@pytest.mark.parametrize("draw", [figures.stacked_bars, figures.heat_map])
def test_labels_do_not_overlap_and_nothing_is_cut_off(draw, blocks):
    figure = draw(make_run(PAPER, "a/long/path/" * 30, blocks=blocks))
    height, width, _ = figures.pixels(figure).shape
    assert width < 3000
    first, last = figure.axes[0], figure.axes[1]
    stages = [text for text in first.texts if text.get_text().startswith("s")]
    assert [text.get_text() for text in stages] == ["stem", "stage1", "stage2", "stage3"]
    ticks = last.get_xticklabels()
    assert [t.get_text() for t in ticks[:2]] == ["norm", "block1_norm1"]
    assert len(ticks) == 6 * blocks + 1
    legend = [text for legend in figure.legends for text in legend.get_texts()]
    everything = boxes(figure, [*stages, *ticks, *legend, figure._suptitle])
    for a, b in itertools.combinations(everything, 2):
        assert not a.overlaps(b)
    for box in everything:
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height


def test_bars_are_the_weights_in_fixed_colours():
    run = make_run(PAPER)
    figure = figures.stacked_bars(run)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["BN", "LN", "IN"]  # from top to bottom, as the bars are stacked
    for axis, kind in zip(figure.axes, ("mean", "variance"), strict=True):
        assert kind in axis.get_ylabel()
        for bars, s in zip(axis.containers, ("instance", "layer", "batch"), strict=True):
            heights = [bar.get_height() for bar in bars]
            expected = [weights[kind][s] for weights in run.last.values()]
            assert heights == pytest.approx(expected)
            colours = {matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars}
            assert colours == {figures.COLOURS[s]}


def test_gates_and_compared_runs_have_figures_of_their_own():
    gates = {f"s{i}_norm": {"gate": {"batch": 1 - i / 4, "instance": i / 4}} for i in range(4)}
    (axis,) = figures.stacked_bars(Preferences({0: gates})).axes
    assert [bar.get_height() for bar in axis.containers[0]] == [0, 0.25, 0.5, 0.75]
    runs = [make_run(PAPER, f"{n}{s}", batch_size=n, seed=s) for n in (8, 2) for s in (0, 1)]
    figure = figures.compared_bars(compare(runs))
    figures.pixels(figure)
    last = figure.axes[-1]
    assert [t.get_text() for t in last.get_xticklabels()] == ["2", "8"] * 5
    assert last.get_xlabel() == "batch_size"
    assert [text.get_text() for text in figure.axes[0].texts][0] == "net"


# The script


def script():
    spec = importlib.util.spec_from_file_location("preferences_script", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_folder(folder, batch, **options):
    points = [(0, {}), (9, {})]
    for i in range(4):
        points[0][1].update(point(0.5, f"stage{i}_norm"))
        points[1][1].update(point(batch, f"stage{i}_norm"))
    write_events(folder / "tensorboard" / "switches", points)
    (folder / "run.json").write_text(json.dumps({"options": options}))
    return folder


def test_script_on_one_run(tmp_path, capsys):
    run = make_folder(tmp_path / "run", 0.3, seed=0)
    script().main([str(run)])
    out = capsys.readouterr().out
    assert "stage3_norm   0.70 0.30" in out
    assert all(f"\n({claim}) " in out for claim in "abcd")
    assert f"figure: {run / 'preferences.png'}" in out
    assert f"tensorboard --logdir {run}\n" in out
    assert (run / "preferences.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "preferences_map.png").exists() and (run / "preferences.csv").exists()
    assert json.loads((run / "preferences.json").read_text())["options"] == {"seed": 0}


def test_script_on_several_runs(tmp_path, capsys):
    a = make_folder(tmp_path / "a", 0.3, batch_size=2, seed=0)
    b = make_folder(tmp_path / "b", 0.6, batch_size=8, seed=0)
    output = tmp_path / "new" / "report"
    script().main([str(a), str(b), "--output", str(output)])
    out = capsys.readouterr().out
    assert "batch_size=2" in out and f"figure: {output / 'comparison.png'}" in out
    written = {str(file.relative_to(output)) for file in output.rglob("*.*")}
    names = ["preferences.png", "preferences_map.png", "preferences.csv", "preferences.json"]
    compared = {f"comparison.{kind}" for kind in ("png", "csv", "json")}
    assert written == compared | {f"{f}/{name}" for f in ("0-a", "1-b") for name in names}
    assert not (a / "preferences.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name at least one run"),
        (["run", "run"], "run is given twice"),
        (["run", "--output", "run/run.json"], "Choose another folder for the files with --output"),
    ],
)
def test_script_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    make_folder(tmp_path / "run", 0.3, seed=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        script().main(arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1


def test_script_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit:
        script().main(["--help"])
    out = capsys.readouterr().out
    assert exit.value.code == 0 and "runs/sn-b32" in out and "SwitchLogger" in out
    assert np.isin(["--output", "RUN"], out.split()).all()
