import json
import re

import pytest

from spark_embed.cli.main import main
from spark_embed.errors import ConfigError
from spark_embed.report.comparison import report_comparison
from spark_embed.report.markdown import to_markdown
from spark_embed.report.page import to_html
from spark_embed.report.steps import read_comparison

from support.comparisons import HOSTILE, comparison, step
from support.pages import seen


def page_of(tmp_path, values):
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(values))
    return report_comparison(read_comparison(str(path)))


def test_the_command_writes_the_page_and_markdown_beside_the_json(tmp_path, capsys):
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(comparison()))
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"compare.{end}") for end in ("html", "md")]
    assert main(["report", str(path), "--to", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_text() == (tmp_path / "compare.html").read_text()
    assert (tmp_path / "other.md").read_text() == (tmp_path / "compare.md").read_text()


def test_gains_are_taken_within_a_round_and_told_with_their_spread(tmp_path):
    # The machine was half as fast in the second round: the gain was the same.
    steps = [step("slow", [10, 5, 12]), step("fast", [20, 10, 30]), step("slower", [16, 8, 24])]
    page = page_of(tmp_path, comparison(steps=steps))
    table = seen(to_html(page)).table("without it")
    assert [row[:4] for row in table] == [
        ["step", "images/s", "without it", "of the first"],
        ["slow", "10 (5–12)", "2× (2–2.5)", "1.00×"],
        ["fast", "20 (10–30)", "0.8× (0.8–0.8)", "2.00×"],
        ["slower", "16 (8–24)", "", "1.60×"],
    ]
    assert "| slow | 10 (5–12) | 2× (2–2.5) | 1.00× |" in to_markdown(page)


def test_the_waterfall_is_as_long_as_the_factor(tmp_path):
    steps = [step("a", [10.0]), step("b", [20.0]), step("c", [80.0]), step("d", [40.0])]
    html = to_html(page_of(tmp_path, comparison(steps=steps)))
    chart = html[html.index("without one mistake after") :].split("</svg>")[0]
    bars = re.findall(r'<rect class="(s[05])" x="[\d.]+" y="[\d.]+" width="([\d.]+)"', chart)
    widths = [float(width) for _, width in bars]
    assert widths[2] == pytest.approx(2 * widths[1], abs=0.2)  # four times is twice two times
    assert widths[3] == pytest.approx(widths[1], abs=0.2)
    assert [colour for colour, _ in bars] == ["s0", "s0", "s0", "s5"]  # the last one lost


def with_text(field, text):
    """A comparison that says this in a field."""
    values = comparison()
    if field == "verdict":
        values["verdict"] = [text]
    elif field == "machine":
        values["machine"]["text"] = text
    elif field == "stage":
        values["steps"][0]["stage_s"] = {text: 1.0}
    else:
        values["steps"][0][field] = text
    return values


@pytest.mark.parametrize("field", ["title", "mistake", "program", "verdict", "machine", "stage"])
def test_no_text_is_anything_but_text(field, tmp_path):
    hostile, plain = (page_of(tmp_path, with_text(field, text)) for text in (HOSTILE, "plain"))
    html = to_html(hostile)
    assert seen(html).kinds == seen(to_html(plain)).kinds
    assert "\u202e" not in html
    assert len(html) < len(to_html(plain)) + 10_000  # what is long is cut
    assert "<img" not in to_markdown(hostile)


def test_what_was_not_measured_is_left_out(tmp_path):
    bare = {"name": "a", "title": "A", "n_images": 5, "images_per_s": [3.0]}
    busy = {**bare, "title": "B", "gpu": {"utilization": 87.5, "memory_mb": None}}
    page = page_of(tmp_path, comparison(steps=[bare, busy]))
    found = seen(to_html(page))
    assert found.table("without it")[2][-2:] == ["87.5", ""]
    assert "Memory over time was not measured." in found.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"product": "other"}, "product"),
        ({"format": 2}, "format"),
        ({"steps": []}, "steps"),
        (
            {"steps": [{"name": "a", "title": "A", "n_images": 1, "images_per_s": [0]}]},
            "steps.0.images_per_s.0",
        ),
    ],
)
def test_what_is_no_comparison_is_refused_by_the_name_of_its_field(change, says, tmp_path):
    with pytest.raises(ConfigError, match=rf"compare\.json: is no compare.json of this version: {says}"):
        page_of(tmp_path, comparison(**change))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nothing.json"], "nothing.json"),
        (["compare.json", "--to", "page.htm"], "--to page.htm: must end in .html"),
    ],
)
def test_a_wrong_argument_is_told(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare.json").write_text(json.dumps(comparison()))
    assert main(["report", *argv]) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.json"]
