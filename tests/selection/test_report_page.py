"""The report of a comparison in a real browser: phone and desktop, light and dark."""

import pytest

import keras_norms
from tests.selection.made import CLEAR, facts
from tests.selection.test_judging import SWITCHES

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    made = facts(CLEAR, switches=SWITCHES, replicas={"bn": 0.05, "gn": 1e-6, "wn": None})
    keras_norms.ComparedNorms(made).report(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_read_on_any_screen(width, scheme, page, written):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 300)")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    headings = page.locator("h2").all_inner_texts()
    assert headings[0] == "The ranking" and "Which one for this task?" in headings
    first = page.locator("table").first
    assert first.locator("tbody tr").first.inner_text().split()[:3] == ["gn", "✔", "best"]
    assert first.locator("thead").is_visible()  # cells without names would be riddles
    pill = first.locator(".verdict").first
    assert pill.evaluate("pill => getComputedStyle(pill).backgroundColor") != "rgba(0, 0, 0, 0)"
