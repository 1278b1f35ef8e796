"""The pages in headless Chromium: quiet, asking nobody for anything, readable on phones, dark and printed."""

import json

import pytest

from spark_embed.cli.main import main

from support.comparisons import HOSTILE, comparison, step

pytestmark = pytest.mark.browser

WIDTHS = [340, 768, 1200]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """The report of a comparison whose texts are hostile, and long."""
    folder = tmp_path_factory.mktemp("compare")
    steps = [
        step(f"Step {n} {HOSTILE[:300]}", [2.0**n, 1.9**n, 2.1**n], mistake=HOSTILE) for n in range(1, 12)
    ]
    (folder / "compare.json").write_text(json.dumps(comparison(steps=steps, verdict=[HOSTILE])))
    assert main(["report", str(folder / "compare.json")]) == 0
    return folder / "compare.html"


@pytest.fixture
def opened(chromium, page_file):
    """Opens the page; at the end nothing has been said in its console, and nothing been asked for."""
    heard, contexts = [], []

    def open_page(**options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on("request", lambda request: heard.append(request.url))
        page.goto(page_file.as_uri())
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    assert [one for one in heard if not one.startswith("data:")] == [page_file.as_uri()] * len(contexts)
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(width, opened, tmp_path):
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.eval_on_selector_all("svg text", "all => all.map(one => one.getBoundingClientRect().height)")
    assert min(sizes) >= 9  # pixels: it can be read
    outside = page.eval_on_selector_all(
        "svg text",
        "all => all.filter(one => one.getBoundingClientRect().right > "
        "one.ownerSVGElement.getBoundingClientRect().right + 8).map(one => one.textContent)",
    )
    assert outside == []
    assert len(page.screenshot(path=tmp_path / "page.png", full_page=True)) > 20_000


def test_every_chart_has_words_for_who_does_not_see_it(opened):
    page = opened()
    charts = page.query_selector_all("svg")
    assert len(charts) == 4
    for chart in charts:
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label")) > 20


def test_dark_where_that_is_wanted_but_not_on_paper(opened):
    page = opened(color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(back) == "rgb(20, 24, 29)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(back) == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").startswith(b"%PDF")
