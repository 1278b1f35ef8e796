"""The page in a headless Chromium: a picture dropped, more like it, keys, a filter, words, a phone."""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from support.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What a browser does with a file that a desktop gives it.
GIVE = """([data, name, kind]) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name, { type: "image/jpeg" }));
  const how = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(
    kind === "paste"
      ? new ClipboardEvent(kind, { ...how, clipboardData: given })
      : new DragEvent(kind, { ...how, dataTransfer: given }),
  );
}"""


def command(*argv: object) -> None:
    subprocess.run([sys.executable, "-m", "spark_embed", *map(str, argv)], check=True)


def served(output: Path, log: Path) -> Iterator[str]:
    """The page's address, while it is there."""
    argv = [sys.executable, "-m", "spark_embed", "explore", str(output), "--port", "0"]
    with log.open("w") as file, subprocess.Popen(argv, stderr=file) as process:
        try:
            wait_until(lambda: "look at http" in log.read_text() or process.poll() is not None, "the page")
            yield re.search(r"look at (\S+);", log.read_text())[1]
        finally:
            process.terminate()
            assert process.wait(20) == 0
    assert "ERROR" not in log.read_text()


@pytest.fixture(scope="module")
def photos_folder(material) -> Path:
    return material / "photos"


@pytest.fixture(scope="module")
def photos_output(photos_folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("photos") / "out"
    command("--input_dir", photos_folder, "--output_dir", output)
    command("index", output)
    return output


@pytest.fixture(scope="module")
def photos_page(photos_output, tmp_path_factory):
    yield from served(photos_output, tmp_path_factory.mktemp("log") / "log")


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture
def open_page(chromium):
    """Open an address; in the end the console must be empty."""
    pages = []

    def open_page(address: str, **options: object):
        page = chromium.new_page(**options)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if is_foreign(request.url) else None)
        page.goto(address)
        pages.append((page, said))
        return page

    def is_foreign(url: str) -> bool:
        return not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:"))

    yield open_page
    for page, said in pages:
        assert said == []
        page.close()


def until(page, expression: str) -> None:
    """Wait; by evaluate, for the page's own policy forbids what Playwright's wait_for_function does."""
    wait_until(lambda: page.evaluate(expression), expression)


def found(page, says: str) -> list[str]:
    """The captions of what was found, once the line above says so and the pictures are there."""
    wait_until(lambda: says in page.inner_text("#status"), says)
    until(page, "document.querySelector('#grid img')?.naturalWidth > 0")
    return [caption.inner_text() for caption in page.query_selector_all(".caption")]


def give(page, photo: Path, *kinds: str) -> None:
    for kind in kinds:
        page.evaluate(GIVE, [base64.b64encode(photo.read_bytes()).decode(), photo.name, kind])


def test_a_dropped_picture_finds_its_category_and_the_keys_go_on_from_there(
    open_page, photos_page, photos_folder, screenshots
):
    page = open_page(photos_page)
    assert len(found(page, "of 400 pictures")) == 48
    page.screenshot(path=screenshots / "all.png")
    give(page, photos_folder / "brain/image_0007.jpg", "dragover", "drop")
    assert found(page, "nearest of 400")[:5] == ["brain"] * 5
    page.screenshot(path=screenshots / "dropped.png")
    assert page.inner_text(".score >> nth=0") == "1.000"
    assert page.get_attribute("#grid img >> nth=0", "alt") == "brain"
    # It is at the first card; one to the right, one down, and more like that
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('#grid')).gridTemplateColumns.split(' ').length"
    )
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    at = page.evaluate("[...document.querySelectorAll('.picture')].indexOf(document.activeElement)")
    assert at == columns + 1
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('like=')")
    assert found(page, "nearest of 400")[:3] == ["brain"] * 3
    page.keyboard.press("d")
    assert page.is_visible("#details")
    assert "brain/image_" in page.inner_text("#details-columns")
    page.screenshot(path=screenshots / "details.png")
    page.keyboard.press("Escape")
    assert not page.is_visible("#details")
    page.keyboard.press("/")  # this model takes no words: the filter is next
    page.keyboard.type("label = 'Leopards'")
    page.keyboard.press("Enter")
    assert set(found(page, "where label = 'Leopards'")) == {"Leopards"}
    page.screenshot(path=screenshots / "filter.png")
    page.click(".open >> nth=1")  # the list of columns that the filter showed does not move the grid
    assert page.is_visible("#details")
    page.keyboard.press("Escape")
    page.go_back()
    assert found(page, "nearest of 400 pictures, ")[:3] == ["brain"] * 3
    page.keyboard.press("Escape")
    assert len(set(found(page, "from all over the data set"))) == 20
    page.click("text=Show more")
    until(page, "document.querySelectorAll('#grid li').length === 96")


def test_the_page_finds_what_comparing_with_all_finds(open_page, photos_page, photos_output):
    page = open_page(photos_page)
    table = pq.read_table(photos_output / "embeddings.parquet", columns=["embedding", "label"])
    vectors, labels = np.stack(table["embedding"].to_numpy()), np.array(table["label"].to_pylist())
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    precision = np.mean(labels[np.argsort(-scores, axis=1)[:, :5]] == labels[:, None])
    by_page = page.evaluate(
        """async () => {
          const found = [];
          for (let like = 0; like < 400; like++) {
            const body = JSON.stringify({ like, k: 5 });
            const headers = { "content-type": "application/json" };
            const answer = await fetch("api/search", { method: "POST", headers, body });
            found.push((await answer.json()).hits.map((hit) => hit.columns.label));
          }
          return found;
        }"""
    )
    assert np.mean(np.array(by_page) == labels[:, None]) == pytest.approx(precision, abs=1e-9)
    assert precision == pytest.approx(0.943, abs=0.002)


def test_on_a_phone_in_the_dark_it_is_one_column_and_takes_a_photo(
    open_page, photos_page, photos_folder, screenshots
):
    page = open_page(photos_page, viewport={"width": 390, "height": 800}, color_scheme="dark", has_touch=True)
    found(page, "of 400 pictures")
    page.set_input_files("#file", photos_folder / "butterfly/image_0003.jpg")
    assert found(page, "nearest of 400")[:3] == ["butterfly"] * 3
    page.screenshot(path=screenshots / "phone.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [card.bounding_box() for card in page.query_selector_all("#grid li")[:3]]
    assert len({round(box["x"]) for box in boxes}) == 1
    page.tap(".picture >> nth=1")
    until(page, "location.hash.includes('like=')")


ODD = [
    "<script>document.title = 'broken'</script>",
    "\"'><img src=x onerror=\"document.title = 'broken'\">",
    "🦔 שלום עולם \u202e abc",
    "long " * 2000,
    "quotes ' \" ` and {{7*7}}",
]


def test_words_and_odd_captions_are_shown_as_they_are(open_page, material, tmp_path, screenshots):
    shard = pq.read_table(next(iter(sorted((material / "img2dataset/parquet").glob("*.parquet")))))
    shard = shard.filter(shard["jpg"].is_valid()).slice(0, 10)
    captions = [*ODD, *shard["caption"].to_pylist()[len(ODD) :]]
    shard = shard.set_column(shard.schema.get_field_index("caption"), "caption", [captions])
    (tmp_path / "in").mkdir()
    pq.write_table(shard, tmp_path / "in/0.parquet")
    output = tmp_path / "out"
    command(
        "--input_dir", tmp_path / "in", "--output_dir", output, "--model_directory", material / "clip-tiny"
    )
    command("index", output)
    for address in served(output, tmp_path / "log"):
        page = open_page(address)
        page.wait_for_selector("#words:enabled")
        found(page, "of 10 pictures")
        page.keyboard.press("/")
        page.keyboard.type("a photo of a dog")
        page.keyboard.press("Enter")
        shown = found(page, "nearest of 10")
        page.screenshot(path=screenshots / "odd.png", full_page=True)
        assert len(shown) == 10
        for caption in ODD:
            assert any(caption.split()[0] in one for one in shown)
        assert "broken" not in page.title()
        assert (
            page.evaluate("document.querySelectorAll('#grid script, #grid img:not(.picture img)').length")
            == 0
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        give(page, material / "photos/brain/image_0007.jpg", "paste")
        assert len(found(page, "nearest of 10")) == 10
        page.wait_for_selector("#asked-picture[src^=blob]")
        page.reload()
        found(page, "of 10 pictures")
