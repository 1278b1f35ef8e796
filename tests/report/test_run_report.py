import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spark_embed.cli.main import main
from spark_embed.config import Config
from spark_embed.output.folder import Output, check_output
from spark_embed.output.pace import WaveTime, in_order, pace
from spark_embed.output.prediction_report import Columns
from spark_embed.output.records import Part
from spark_embed.output.state import read_ledger
from spark_embed.report.markdown import to_markdown
from spark_embed.report.page import to_html
from spark_embed.report.read_run import read_run_facts
from spark_embed.report.run import report_run

from support.comparisons import HOSTILE
from support.output_files import fingerprint, make_output, make_progress, make_run, make_wave
from support.pages import seen
from support.summaries import WRITTEN


@pytest.fixture
def hostile_shard(tmp_path, photo_bytes):
    """A shard of four photos, two that are cut off (one of them turned), no image and something else."""
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    Image.open(io.BytesIO(photo_bytes[0])).resize((300, 150)).save(turned, "JPEG", exif=exif)
    data = [*photo_bytes[:4], photo_bytes[4][:-5000], turned.getvalue()[:-800], None, b"no image"]
    keys = [str(row) for row in range(7)] + [HOSTILE]
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"key": keys, "jpg": pa.array(data, pa.binary())}), folder / "a.parquet")
    return folder


def test_a_run_is_told_with_pictures_of_its_errors(hostile_shard, embed, capsys):
    metadata, _, errors = embed(hostile_shard, hourly_price=0.5)
    assert main(["report", str(embed.output_dir)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["run_report.html", "run_report.md", "run_report.json"]
    html, markdown, values = (path.read_text() for path in paths)
    found = seen(html)
    assert "script" not in found.tags
    assert {name for name in found.attributes if name.startswith("on")} == set()
    assert all(one.startswith("data:") for one in found.addresses)
    assert "tiny-clip" in found.text
    assert metadata["verdict"]["text"] in found.text
    rows = {row[0]: row[2] for row in found.table("image_id")[1:]}
    assert {key: rows[key] for key in "456"} == {"4": "corrupt", "5": "corrupt", "6": "null_bytes"}
    assert len(rows) == len(errors) == 4
    whole, turned = found.pictures
    assert whole.width > whole.height
    assert (turned.height, turned.format) == (160, "JPEG")  # upright
    assert max(*whole.size, *turned.size) == 160
    assert "<img" not in markdown
    assert "| 6 |  | null\\_bytes |" in markdown
    said = json.loads(values)
    assert said["metadata"] == metadata
    assert [row["shard_row"] for row in said["error_examples"]["corrupt"]] == [4, 5]
    assert len(metadata["waves"]) == metadata["this_run"]["n_waves"]
    assert sum(wave["rows"] for wave in metadata["waves"]) == 8
    check_output(
        Config(input_dir=str(hostile_shard), output_dir=str(embed.output_dir))
    )  # no stranger's files

    (hostile_shard / "a.parquet").rename(hostile_shard / "b.parquet")
    assert main(["report", str(embed.output_dir), "--to", f"{hostile_shard}/page.html"]) == 0
    found = seen((hostile_shard / "page.html").read_text())
    assert found.pictures == []
    assert len(found.table("image_id")) == 1 + len(errors)


def summarize(output, **changes):
    """Write a whole metadata.json for what is published."""
    ledger = read_ledger(output)
    where = WRITTEN["output"] | {"generation": ledger.generation, "run_id": ledger.run_id}
    Path(output.metadata).write_text(json.dumps(WRITTEN | {"output": where} | changes))


def told(output):
    """The page of an output folder, without pictures."""
    return report_run(read_run_facts(output, lambda shard, shard_row: None))


def test_a_run_that_is_not_done_is_told_as_far_as_it_is(tmp_path):
    output = Output(str(tmp_path))
    make_run(output)
    for wave, (second, n_rows) in enumerate([(10, 100), (20, 100), (30, 400)]):
        part = Part("a.parquet", "1", wave * 1000, n_rows)
        make_wave(output, f"{wave:05d}", [part], embed_s=10.0, finished_at=f"2026-11-26T10:00:{second}+00:00")
    make_progress(output, "embed", n_rows=1000, n_complete=600, n_done_now=600, embed_s=30.0)
    page = to_markdown(told(output))
    assert "- rows complete: 600\n- without a result: 0\n- rows in all: 1,000" in page
    assert "interrupted" in page
    assert "**Throughput over time**: 3 waves in 30 s: between 10 and 40 images/s" in page


def test_what_metadata_says_is_told(tmp_path):
    output = make_output(tmp_path)
    summarize(output, usage={"requests": 12}, waves=[])
    page = told(output)
    text, found = to_markdown(page), seen(to_html(page))
    assert [row[0] for row in found.table("busy s")[1:]] == ["a:1", "b:1"]
    assert "1 rows embedded again, because a task or its executor failed" in text
    assert "Shard b.parquet is left out: not parquet" in text
    assert "5 rows are left: the same command goes on." in text
    assert "- USD, this run: $1.08" in text
    assert "| usage | requests 12 |" in text
    assert "| null\\_bytes | 1  (5.9 %) |" in text or "| null\\_bytes | 1 (5.9 %) |" in text
    assert "Decoding took long" in text


def test_two_waves_at_once_add_up():
    waves = [
        WaveTime("2026-11-26T10:00:10+00:00", 10.0, 100),  # 0 to 10 s: 10 a second
        WaveTime("2026-11-26T10:00:20+00:00", 15.0, 300),  # 5 to 20 s: 20 a second
    ]
    points = pace(waves)
    assert sum(speed for _, speed in points) * 2 == pytest.approx(400)
    assert [speed for _, speed in points] == pytest.approx([10, 10, 20, 30, 30, 20, 20, 20, 20, 20], abs=0.01)
    assert pace([]) == []
    assert pace([WaveTime("2026-11-26T10:00:10+00:00", 0.0, 5)])[0][1] > 0


def test_of_very_many_waves_neighbours_are_kept_together():
    ends = [f"2026-11-26T{n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}+00:00" for n in range(1, 1801)]
    waves = in_order(WaveTime(end, 1.0, 7) for end in reversed(ends))
    assert len(waves) == 450
    assert sum(wave.rows for wave in waves) == 7 * 1800
    assert all(speed == pytest.approx(7) for _, speed in pace(waves))


LABELS = ["result", [["label", "string"], ["label_id", "int"], ["score", "float"]]]
NUMBER = ["other", [["height", "double"], ["is_big", "boolean"], ["story", "string"]]]


def test_scores_and_labels_are_told_as_numpy_counts_them(tmp_path):
    output = make_output(tmp_path)
    summarize(output)
    random = np.random.default_rng(0)
    score, height = random.beta(2, 5, 3000).astype(np.float32), random.normal(170, 10, 3000)
    labels = random.choice(["cat", "dog", HOSTILE], 3000, p=[0.7, 0.2, 0.1])
    columns = {
        "label": pa.array(labels), "label_id": pa.nulls(3000, pa.int32()), "score": pa.array(score),
        "height": pa.array(height, mask=np.arange(3000) == 7), "is_big": pa.array(height > 180),
        "story": [f"story {row}" for row in range(3000)],
    }  # fmt: skip
    table = pa.table(columns)
    for number, rows in enumerate((table[:1000], table[1000:])):
        pq.write_table(rows, Path(output.table("embeddings.parquet"), f"part-{number:05d}.parquet"))
    make_run(output, made_by=fingerprint(results=[LABELS, NUMBER]))
    found = read_run_facts(output, lambda shard, shard_row: None)
    by_name = {one.columns: one.scores for one in found.distributions}
    scores = by_name[Columns("score", "label")]
    assert scores.classes == Counter(labels.tolist())
    assert scores.bins == np.histogram(score, 20, (0, 1))[0].tolist()
    assert (scores.mean, scores.std) == pytest.approx((score.mean(), score.std(ddof=1)), rel=1e-5)
    others = np.delete(height, 7)
    tall = by_name[Columns("height", "is_big")]
    assert (tall.low, tall.high) == (others.min(), others.max())
    assert tall.bins == np.histogram(others, 20)[0].tolist()
    assert tall.classes == {"False": (height <= 180).sum(), "True": (height > 180).sum()}
    assert Columns(None, "story") not in by_name  # more different ones than classes are
    html = to_html(report_run(found))
    assert "script" not in seen(html).tags
    assert "dog" in html
    assert "Rows by story" not in html


def test_a_data_set_that_is_to_be_replaced_is_not_taken_for_the_run(tmp_path):
    output = make_output(tmp_path)
    summarize(output)
    ledger = read_ledger(output)
    make_run(output, run_id="another")
    make_progress(output, "embed", run_id="another", n_complete=0, n_done_now=0)
    page = to_markdown(told(output))
    assert "- rows complete: 0" in page
    assert "corrupt" not in page
    assert read_ledger(output) == ledger


@pytest.mark.parametrize("state", ["nothing", "somebody else's"])
def test_a_folder_without_a_run_is_refused(state, tmp_path, capsys):
    if state != "nothing":
        (tmp_path / "letter.txt").write_text("dear")
    assert main(["report", str(tmp_path)]) == 2
    assert "no run of spark_embed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == (["letter.txt"] if state != "nothing" else [])


def test_in_s3_as_on_disk(bucket, s3_server, tmp_path):
    summarize(make_output(tmp_path))
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            key = f"out/{path.relative_to(tmp_path)}"
            s3_server.direct.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", f"s3://{bucket}/out"]) == 0
    stored = s3_server.content(bucket, "out/")
    there = {name.rpartition("/")[2]: data for name, data in stored.items() if "run_report" in name and data}
    here = (tmp_path / "run_report.html").read_text()
    assert seen(there["run_report.html"].decode()).tables[1:] == seen(here).tables[1:]
    assert {"run_report.md", "run_report.json"} <= set(there)
