"""The tab "Norms" in a real browser: what a researcher does with it, and what it shows then."""

import csv
import io
import logging
import re
import shutil
import threading

import pytest
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.serving import make_server

from keras_norms.tensorboard.plugin import NormsPlugin
from tests.support import events
from tests.support.child import start

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.process]
STEPS = [0, 5, 10]
# TensorBoard as its command starts it, with the plugin whether or not it is installed.
TENSORBOARD = """
import sys, time
from tensorboard import default, program
from keras_norms.tensorboard.plugin import NormsPlugin
others = [p for p in default.get_plugins() if getattr(p, "plugin_name", "") != "norms"]
tensorboard = program.TensorBoard(plugins=[*others, NormsPlugin])
tensorboard.configure(argv=[None, "--logdir", sys.argv[1], "--port", "0", "--load_fast=false"])
print(tensorboard.launch(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def open_page(page):
    """Opens the page alone, over TensorBoard's own application: `open_page(folder, state)`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    servers = []

    def open_page(folder, state=""):
        plugin = NormsPlugin(TBContext(logdir=str(folder)))
        plugin.store.read()
        servers.append(make_server("127.0.0.1", 0, TensorBoardWSGI([plugin]), threaded=True))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].port}/data/plugin_entry.html?name=norms"
        page.goto(f"{address}#{state}")
        page.wait_for_selector("body[data-pictures]")
        return page

    yield open_page
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two batch sizes with two seeds each, and a run with gates."""
    folder = tmp_path_factory.mktemp("runs")
    for size, lean in ((32, 1.0), (2, -0.5)):
        for seed in (0, 1):
            data = events.options(batch_size=size, seed=seed)
            data += b"".join(events.weights(step, lean=lean + 0.1 * seed) for step in STEPS)
            events.write(folder / f"b{size}-s{seed}", data)
    gate = events.scalar("gate/stage1_norm/batch", 0, 0.25) + events.scalar(
        "gate/stage1_norm/batch", 5, 0.75
    )
    low, high = [[0.2, 0.25, 4.0]], [[0.7, 0.75, 1.0], [0.8, 0.85, 3.0]]
    gate += events.gates("stage1_norm", 0, low) + events.gates("stage1_norm", 5, high)
    events.write(folder / "gates", gate)
    return folder


def pictures(page):
    return int(page.get_attribute("body", "data-pictures"))


def after(page, action):
    """Waits until the page has drawn what an action asks for."""
    before = pictures(page)
    action()
    page.wait_for_function(f"Number(document.body.dataset.pictures) > {before}")


def choose(page, name, value):
    after(page, lambda: page.select_option(f"#{name}", value))


def click(page, x, y):
    """Clicks at a share of the width and height of the view."""
    box = page.locator("#view").bounding_box()
    after(page, lambda: page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"]))


def state(page):
    return dict(re.findall(r"p\.norms\.(\w+)=([^&]*)", page.url))


def download(page, kind):
    with page.expect_download() as found:
        page.click(f"#{kind}")
    return found.value.suggested_filename, found.value.path().read_bytes()


def table(page):
    name, content = download(page, "csv")
    assert name.endswith(".csv")
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_in_tensorboard(page, recorded):
    """The tab is there, draws, follows the address, and is dark when TensorBoard is."""
    with start("-c", TENSORBOARD, str(recorded)) as process:
        try:
            address = process.stdout.readline().strip()
            page.goto(f"{address}?darkMode=true#norms&p.norms.view=bars&p.norms.layer=stage2_norm1")
            frame = page.frame_locator("iframe[src*='norms']")
            frame.locator("body[data-pictures]").wait_for()
            assert page.get_by_text("Norms", exact=True).first.is_visible()
            assert frame.locator("[data-view=bars]").get_attribute("aria-selected") == "true"
            assert frame.locator("#title").inner_text() == "stage2_norm1"
            assert frame.locator("html.dark").count() == 1
            frame.locator("[data-view=simplex]").click()
            page.wait_for_url("**p.norms.view=simplex**")
            assert page.url.count("#norms&") == 1 and state(page)["layer"] == "stage2_norm1"
        finally:
            process.kill()


def test_the_slider_shows_every_step(open_page, recorded):
    page = open_page(recorded, "p.norms.run=b32-s0")
    assert "step 10 of 10 · newest" in page.inner_text("#at")
    last = page.locator("#view").screenshot()
    for row, step in enumerate(STEPS[:-1]):
        after(page, lambda row=row: page.locator("#step").fill(str(row)))
        assert page.inner_text("#at") == f"step {step} of 10"
        assert table(page)[0]["step"] == str(step)
    assert page.locator("#view").screenshot() != last
    page.wait_for_function("location.hash.includes('p.norms.step=5')")


def test_a_click_on_a_layer_shows_its_curves(open_page, recorded):
    page = open_page(recorded)
    assert page.inner_text("#title") == "mean over 4 layers"
    mean = page.locator("#curves").screenshot()
    box = page.locator("#view").bounding_box()
    after(page, lambda: page.mouse.click(box["x"] + 60, box["y"] + 100))  # the leftmost column
    assert page.inner_text("#title") == "stem_norm" and state(page)["layer"] == "stem_norm"
    assert page.locator("#curves").screenshot() != mean
    box = page.locator("#curves").bounding_box()
    after(page, lambda: page.mouse.click(box["x"] + 50, box["y"] + 80))  # goes to the step there
    assert page.inner_text("#at") == "step 0 of 10"
    assert page.get_by_text("step 0", exact=True).is_visible()  # over the curves
    after(page, lambda: page.click("[data-layer=stage1_norm2]"))  # in the list
    assert page.inner_text("#title") == "stage1_norm2"


def test_two_runs_are_compared(open_page, recorded):
    page = open_page(recorded, "p.norms.run=b32-s0&p.norms.layer=stage2_norm1&p.norms.kind=mean")
    choose(page, "other", "b2-s0")
    assert page.inner_text("#title") == "stage2_norm1: solid b32-s0, dashed b2-s0"
    rows = {row["run"]: row for row in table(page) if row["layer_path"] == "stage2_norm1"}
    assert float(rows["b32-s0"]["batch"]) == pytest.approx(1 / 3 + 0.3, abs=1e-6)
    assert float(rows["b2-s0"]["batch"]) == pytest.approx(1 / 3 - 0.15, abs=1e-6)


def test_the_matrix_of_runs_gives_means_and_spread(open_page, recorded):
    page = open_page(recorded, "p.norms.view=runs&p.norms.stage=stage2&p.norms.kind=mean")
    rows = [row for row in table(page) if row["run"] == "mean ± sd"]
    assert [row["group"] for row in rows] == ["batch size 2", "batch size 32"]
    assert float(rows[1]["batch"]) == pytest.approx(1 / 3 + 0.3 * 1.05, abs=1e-6)
    assert float(rows[1]["batch_spread"]) == pytest.approx(0.3 * 0.1 / 2**0.5, abs=1e-6)
    (gates,) = [row for row in table(page) if row["run"] == "gates"]
    assert gates["layers"] == "0" and gates["batch"] == ""
    choose(page, "stage", "stage1")
    (gates,) = [row for row in table(page) if row["run"] == "gates"]
    assert gates["batch"] == "0.75" and gates["layer"] == ""  # which it does not use
    choose(page, "stage", "")
    assert page.inner_text("#title").startswith("mean over 4 layers, all runs")
    after(page, lambda: page.locator("#step").fill("1"))
    click(page, 0.65, 0.23)  # on a run: to the same progress of it
    assert state(page)["run"] == "b2-s1" and state(page)["step"] == "5"


@pytest.mark.parametrize("view", ["map", "simplex", "bars", "runs", "gates"])
def test_every_view_is_exported(open_page, recorded, view):
    run = "gates" if view == "gates" else "b2-s1"
    page = open_page(recorded, f"p.norms.view={view}&p.norms.run={run}&p.norms.published=32")
    name, svg = download(page, "svg")
    assert name.startswith(f"norms-{view}-step") and name.endswith(".svg")
    assert svg.startswith(b"<svg ") and svg.count(b"<path") > 10
    last = b"step 5" if view == "gates" else b"step 10"
    assert last in svg and b"BN" in svg  # what it shows, and the legend
    assert (b"the paper, 32 samples per GPU" in svg) == (view == "bars")
    name, png = download(page, "png")
    width, height = (int.from_bytes(png[i : i + 4]) for i in (16, 20))
    assert png.startswith(b"\x89PNG") and width > 1500 and height > 900
    assert len(set(png)) == 256 and len(png) > 10_000  # something is drawn
    assert table(page)


def test_gates_are_histograms_over_channels(open_page, recorded):
    page = open_page(recorded, "p.norms.view=gates&p.norms.run=gates")
    (row,) = table(page)
    shares = {name: float(share) for name, share in row.items() if name.startswith("share")}
    assert shares["share_from_0.70"] == pytest.approx(0.25, abs=1e-6)
    assert shares["share_from_0.80"] == pytest.approx(0.75, abs=1e-6)
    choose(page, "run", "b2-s0")
    assert "BatchInstanceNormalization" in page.inner_text("#message")


def test_layers_are_selected_and_sorted(open_page, recorded):
    page = open_page(recorded, "p.norms.run=b32-s0")

    def listed():
        return page.locator("#movers tr").evaluate_all("rows => rows.map(r => r.dataset.layer)")

    assert listed() == list(reversed(events.PATHS))  # deeper layers move more
    after(page, lambda: page.click("[data-sort=depth]"))
    assert listed() == list(events.PATHS)
    after(page, lambda: page.locator("#filter").fill("norm1$"))
    assert listed() == ["stage1_norm1", "stage2_norm1"]
    choose(page, "stage", "stage2")
    assert listed() == ["stage2_norm1"] and page.inner_text("#title") == "mean over 1 layers"
    after(page, lambda: page.locator("#filter").fill("none of them"))
    assert "No layer is selected" in page.inner_text("#message")
    after(page, lambda: page.locator("#filter").fill("norm("))  # while it is typed
    assert page.get_attribute("#filter", "aria-invalid") == "true"


def test_by_keyboard(open_page, recorded):
    page = open_page(recorded)
    for key, row in (("ArrowLeft", "1"), ("Home", "0"), ("ArrowRight", "1"), ("End", "2")):
        after(page, lambda key=key: page.keyboard.press(key))
        assert page.get_attribute("body", "data-row") == row
    after(page, lambda: page.keyboard.press("ArrowDown"))
    assert page.inner_text("#title") == "stem_norm"
    after(page, lambda: page.keyboard.press("Escape"))
    assert page.inner_text("#title") == "mean over 4 layers"
    after(page, lambda: page.keyboard.press("3"))
    assert state(page)["view"] == "bars"
    page.keyboard.press(" ")
    page.wait_for_function("document.getElementById('play').ariaLabel == 'Pause'")
    page.wait_for_function("document.body.dataset.row == 0")
    page.keyboard.press(" ")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"


def test_an_address_is_the_whole_state(open_page, recorded):
    sent = "p.norms.view=simplex&p.norms.run=b2-s1&p.norms.other=b32-s1&p.norms.step=5"
    page = open_page(recorded, f"{sent}&p.norms.layer=stage1_norm1&p.norms.kind=variance")
    assert state(page) == dict(re.findall(r"p\.norms\.(\w+)=([^&]*)", page.url))
    assert page.input_value("#run") == "b2-s1" and page.input_value("#other") == "b32-s1"
    assert page.inner_text("#at") == "step 5 of 10"
    assert page.inner_text("#title").startswith("stage1_norm1: solid b2-s1")
    page.evaluate("location.hash = 'p.norms.view=bars'")
    page.wait_for_function("document.querySelector('[data-view=bars]').ariaSelected == 'true'")
    assert page.input_value("#other") == ""


def test_a_run_is_followed_while_it_trains(open_page, tmp_path):
    events.write(tmp_path / "run", events.weights(0) + events.weights(1))
    page = open_page(tmp_path)
    assert page.inner_text("#at").startswith("step 1 of 1 ")
    events.write(tmp_path / "run", events.weights(2))
    page.wait_for_function("document.getElementById('at').textContent.startsWith('step 2 of 2')")
    after(page, lambda: page.keyboard.press("Home"))
    events.write(tmp_path / "second", events.weights(0))
    page.wait_for_function("document.querySelectorAll('#run option').length == 2")
    events.write(tmp_path / "run", events.weights(3))
    page.wait_for_function("document.getElementById('at').textContent == 'step 0 of 3'")


def test_runs_of_equal_options_stand_beside_each_other(open_page, tmp_path):
    for name, lean in (("a", 0), ("b", 1)):
        events.write(tmp_path / name, events.options(batch_size=4) + events.weights(10, lean=lean))
    page = open_page(tmp_path, "p.norms.view=runs")
    for place, run in ((0.5, "b"), (0.2, "a")):  # of three columns; the last is the mean
        click(page, place, 0.5)
        assert state(page)["run"] == run


def test_many_runs_have_names_and_rows_of_their_own(open_page, tmp_path):
    for run in range(80):
        events.write(tmp_path / f"run{run:02}", events.weights(0))
    page = open_page(tmp_path, "p.norms.view=runs")
    _, svg = download(page, "svg")
    assert re.search(rb">run\d\d<", svg) and b"..." not in svg
    click(page, 0.5, 1 - (10 + 1.45 * 476 / 80) / 538)  # the lower half of the bar before the last
    assert state(page)["run"] == "run78"


def test_runs_of_switches_stand_beside_one_of_gates(open_page, tmp_path):
    sn = events.options(norm=1, control_multiplier_of_all_switches=10) + events.weights(0)
    bin_norm = events.options(norm=2) + events.scalar("gate/a/batch", 0, 0.5)
    for name, data in (("a", bin_norm), ("b", sn)):
        events.write(tmp_path / name, data)
    page = open_page(tmp_path, "p.norms.view=runs")
    first, second = sorted(table(page), key=lambda row: row["run"])
    shares = [float(second[s]) for s in events.STATISTICS]
    assert sum(shares) == pytest.approx(1, abs=1e-6) and first["layer"] == ""
    assert first["group"] == "norm 2"  # without the option that it does not have
    _, svg = download(page, "svg")
    lines = re.findall(rb' y="([\d.-]+)"[^>]*>(?:norm 1|control mul)', svg)
    assert lines and abs(float(lines[0])) >= 6  # a label of two lines, which do not overlap
    assert b"All runs, at step 0 of a" in svg


def test_the_pointer_names_all_runs_by_their_share(open_page, tmp_path):
    for seed in range(18):
        weights = events.weights(0) + events.weights(10, lean=seed / 18)
        events.write(tmp_path / f"s{seed:02}", events.options(seed=seed) + weights)
    page = open_page(tmp_path, "p.norms.view=runs")
    box = page.locator("#curves").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 30, box["y"] + 80)  # the last panel, its last step
    page.locator("#curves td").get_by_text("BN, s17").wait_for()
    names = page.locator("#curves td:nth-child(2)").all_inner_texts()
    assert names == [f"BN, s{seed:02}" for seed in reversed(range(18))]
    for name in (names[0], names[-1]):
        place = page.get_by_text(name, exact=True).bounding_box()
        assert 0 < place["y"] < 800 - place["height"]


def test_a_square_of_four_statistics_and_one_alone_fit(open_page, tmp_path):
    def weights(*names):
        kinds = ("mean", "variance")
        return b"".join(
            events.scalar(f"switch/a/{k}/{s}", 0, 1 / len(names)) for k in kinds for s in names
        )

    events.write(tmp_path / "four", weights("instance", "group", "layer", "batch"))
    events.write(tmp_path / "one", weights("batch"))
    page = open_page(tmp_path, "p.norms.view=simplex")
    _, svg = download(page, "svg")
    labels = re.findall(rb' x="([\d.]+)"[^>]*>(?:GN|BN)<', svg)
    places = sorted(float(x) for x in labels)
    assert len(places) == 6 and places[0] > 12 and places[-1] < 976
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) > 24  # side by side
    choose(page, "run", "one")
    _, svg = download(page, "svg")
    assert b">1.0<" in svg and b">1.1<" not in svg  # shares end at 1


def test_a_net_of_switches_and_gates_lists_both(open_page, tmp_path):
    for step, gate in ((0, 0.5), (10, 0.9)):
        events.write(
            tmp_path / "run",
            events.weights(step) + events.scalar("gate/stage9_gate/batch", step, gate),
        )
    page = open_page(tmp_path)
    first = page.locator("#movers tr").first
    assert first.get_attribute("data-layer") == "stage9_gate" and "0.40" in first.inner_text()
    choose(page, "stage", "stage9")
    after(page, lambda: page.keyboard.press("4"))
    assert [row["kind"] for row in table(page)] == ["gate"]


def test_weights_that_are_not_numbers_are_shown_as_such(open_page, tmp_path):
    events.write(tmp_path / "run", events.weights(0) + events.weights(1, lean=float("nan")))
    page = open_page(tmp_path)
    assert page.locator("#movers tr").first.inner_text().split() == [
        "stem_norm",
        "IN",
        "NaN",
        "NaN",
    ]


def test_a_layer_that_is_chosen_by_keyboard_keeps_the_focus(open_page, recorded):
    page = open_page(recorded, "p.norms.run=b32-s0")
    page.locator("[data-layer=stage1_norm2]").focus()
    after(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate("document.activeElement.dataset.layer") == "stage1_norm2"


def test_an_address_with_nonsense_draws(open_page, recorded):
    page = open_page(recorded, "p.norms.view=toString&p.norms.filter=100%&p.norms.run=none")
    assert page.input_value("#filter") == "100%"
    assert "No layer is selected" in page.inner_text("#message")


def test_the_link_is_shown_where_a_page_may_not_copy(open_page, recorded):
    page, shown = open_page(recorded), []
    page.on("dialog", lambda dialog: shown.append(dialog.default_value) or dialog.dismiss())
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {})")  # as over http
    page.click("#link")
    assert shown == [page.url]


def test_the_page_waits_for_a_server_that_is_gone(open_page, recorded):
    page = open_page(recorded)
    page.route("**/runs?*", lambda route: route.abort())
    page.wait_for_function("document.getElementById('problems').innerText.includes('answer')")
    page.wait_for_timeout(500)
    assert page.is_visible("#problems")
    page.unroute("**/runs?*")
    page.wait_for_function("document.getElementById('problems').hidden")


def test_only_the_newest_state_is_drawn(open_page, recorded):
    page = open_page(recorded, "p.norms.run=b32-s0")

    page.evaluate("""() => {
        const ask = window.fetch;
        window.fetch = async (path) => {
            await new Promise((done) => setTimeout(done, path.includes("b32-s1") ? 1500 : 300));
            return ask(path);
        };
    }""")

    def choose_both():
        page.select_option("#run", "b2-s1")
        page.select_option("#other", "b32-s1")

    after(page, choose_both)
    assert {row["batch"] for row in table(page) if row["run"] == "b32-s1"} - {"NaN", ""}
    assert "dashed b32-s1" in page.inner_text("#title")


def test_a_run_that_is_written_anew_shows_its_new_gates(open_page, tmp_path):
    def gates(left):
        scalar = events.scalar("gate/norm/batch", 0, left)
        return scalar + events.gates("norm", 0, [[left, left + 0.05, 4.0]])

    path = events.write(tmp_path / "run", gates(0.2))
    page = open_page(tmp_path, "p.norms.view=gates")
    assert float(table(page)[0]["share_from_0.20"]) == 1
    (tmp_path / "new").write_bytes(gates(0.6))
    after(page, lambda: (tmp_path / "new").replace(path))
    assert float(table(page)[0]["share_from_0.60"]) == 1
    assert b">norm<" in download(page, "svg")[1]  # its stage


def test_runs_that_are_deleted_while_they_play(open_page, tmp_path):
    events.write(tmp_path / "run", b"".join(events.weights(step) for step in range(9)))
    page = open_page(tmp_path)
    page.click("#play")
    shutil.rmtree(tmp_path / "run")
    page.wait_for_function(
        "document.getElementById('message').innerText.includes('No event files')"
    )
    page.wait_for_timeout(300)
    assert page.is_hidden("#problems")


def test_a_narrow_page_has_the_list_below(open_page, recorded):
    page = open_page(recorded)
    page.set_viewport_size({"width": 390, "height": 800})
    after(page, lambda: page.keyboard.press("2"))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#view").bounding_box()["width"] == 390


def test_what_to_do_without_switches_and_with_broken_files(open_page, tmp_path):
    page = open_page(tmp_path)
    page.wait_for_function("document.getElementById('message').innerText.includes('log-dir')")
    assert "No event files" in page.inner_text("#message")
    events.write(tmp_path / "train", events.scalar("epoch_loss", 0, 1.0))
    page.wait_for_function("document.getElementById('message').innerText.includes('No switches')")
    assert "SwitchLogger(log_dir)" in page.inner_text("#message")
    broken = events.write(tmp_path / "run", events.weights(0) + b"broken in the middle of it all")
    page.wait_for_function("document.getElementById('message').hidden")  # the rest is shown
    # What is wrong with a file is known once it is read to its end.
    page.wait_for_function(
        "document.getElementById('problems').innerText.includes('broken at byte')"
    )
    assert str(broken) in page.inner_text("#problems")
