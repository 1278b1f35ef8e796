"""--task predict on real Spark: every row in is a row out, scores are the model's own, and a run goes on."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from spark_embed.config import Config
from spark_embed.datasets.units import take_wave
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run
from spark_embed.run import table_wave

from support.tabular import GOOD, score_of, write_config, write_state

COLUMNS = ["user_id", "prediction_score", "prediction_class", "timestamp"]


@pytest.fixture
def model(tmp_path):
    folder = write_config(tmp_path / "model")
    write_state(folder / "model.pt")
    return folder


def rows_of(n_rows):
    return [
        {
            "user_id": f"{n:05d}",
            **GOOD,
            "age": n % 60,
            "region": 1 + n % 4,
            "income": n * 3.5,
            "plan": ["free", "gold"][n % 2],
        }
        for n in range(n_rows)
    ]


def predict(spark, source, model, out, **options):
    given = {"task": "predict", "id_column": "user_id", "batch_size": 64, **options}
    config = Config(input_dir=str(source), model_directory=str(model), output_dir=str(out), **given)
    return run(spark, config)


def check_whole(out):
    verify(Output(str(out))).check()


@pytest.mark.slow
def test_parquet_in_several_files_is_scored_row_by_row(spark, tmp_path, model):
    rows = rows_of(700)
    data = tmp_path / "data"
    data.mkdir()
    frame = pd.DataFrame(rows).assign(extra=1)
    frame.loc[5, "plan"] = "gone"
    frame.loc[301, "income"] = None
    frame[:300].to_parquet(data / "a.parquet", row_group_size=70)
    frame[300:].to_parquet(data / "b.parquet")
    summary = predict(spark, data, model, tmp_path / "out", include_features=True)
    assert summary.counts.errors_by_code == {"missing_value": 1, "unknown_category": 1}
    found = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert list(found.columns) == [*COLUMNS, *GOOD, "shard", "shard_row"]
    good = [row for number, row in enumerate(rows) if number not in (5, 301)]
    assert found[["user_id", *GOOD]].to_dict("records") == good
    scores = np.array([score_of(row) for row in good])
    assert found["prediction_score"].to_numpy() == pytest.approx(scores, abs=1e-6)
    assert found["prediction_class"].tolist() == (scores >= 0.5).astype(int).tolist()
    errors = pd.read_parquet(tmp_path / "out/errors.parquet")
    assert errors[["user_id", "error", "shard", "shard_row"]].values.tolist() == [
        ["00005", "unknown_category", "a.parquet", 5],
        ["00301", "missing_value", "b.parquet", 1],
    ]
    check_whole(tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["rows"] == 700
    assert report["positives"] == int((scores >= 0.5).sum())
    assert report["score"]["std"] == pytest.approx(scores.std(ddof=1), abs=1e-6)
    edges = [0, 0.2, 0.4, 0.6, 0.8, 1]
    bands = pd.cut(scores, edges, include_lowest=True).value_counts().tolist()
    assert [band["count"] for band in report["bands"]] == bands
    assert summary.report == report
    assert "BATCH INFERENCE REPORT" in summary.text()
    assert "BATCH INFERENCE REPORT" in (tmp_path / "out/report.txt").read_text()
    # Later files are added to what is there.
    frame[:10].assign(user_id="new").to_parquet(data / "c.parquet")
    again = predict(spark, data, model, tmp_path / "out", include_features=True)
    assert (again.counts.rows, again.this_run.rows, again.report["rows"]) == (710, 10, 710)
    check_whole(tmp_path / "out")


@pytest.mark.slow
def test_a_run_over_csv_that_is_cut_off_goes_on_and_ends_in_one_file_in_order(
    spark, tmp_path, model, monkeypatch
):
    rows = rows_of(3000)
    wanted = {row["user_id"]: score_of(row) for row in rows}
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["note", *reversed(rows[0])])
        writer.writeheader()
        for number, row in enumerate(rows):
            text = {name: ("true" if value is True else value) for name, value in row.items()}
            writer.writerow({**text, "note": 'a,\n"b"'} | ({"age": "old"} if number == 1500 else {}))
    with path.open("a") as file:
        file.write("too,few\n")
    out = tmp_path / "out"

    n_waves = []

    def fail_third(*args):
        n_waves.append(1)
        if len(n_waves) == 3:
            raise KeyboardInterrupt
        return table_wave.run_table_wave(*args)

    with monkeypatch.context() as patch:
        patch.setattr("spark_embed.run.wave_job.run_table_wave", fail_third)
        patch.setattr("spark_embed.run.waves.take_wave", lambda queue, n_rows: take_wave(queue, 700))
        with pytest.raises(KeyboardInterrupt):
            predict(spark, path, model, out, output_format="csv")
    assert not (out / "predictions.csv").exists()
    summary = predict(spark, path, model, out, output_format="csv")
    assert 0 < summary.this_run.rows < summary.counts.rows == 3001
    check_whole(out)
    with (out / "predictions.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [*COLUMNS, "error", "error_detail"]
    assert [row["user_id"] for row in found] == [*wanted, ""]
    for row in found:
        if row["error"]:
            assert row["prediction_score"] == row["prediction_class"] == ""
        else:
            assert float(row["prediction_score"]) == pytest.approx(wanted[row["user_id"]], abs=1e-6)
    assert [(n, row["error"]) for n, row in enumerate(found) if row["error"]] == [
        (1500, "wrong_type"),
        (3000, "wrong_field_count"),
    ]
    # Nothing is left to do, and the file is made anew where it is missing.
    (out / "predictions.csv").unlink()
    again = predict(spark, path, model, out, output_format="csv")
    assert again.this_run.rows == 0
    assert len((out / "predictions.csv").read_text().splitlines()) == 3002


@pytest.mark.slow
def test_lines_of_json_and_rows_without_an_id(spark, tmp_path, model):
    rows = rows_of(20)
    lines = [json.dumps(row) for row in rows]
    lines[4:4] = ["no json"]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    summary = predict(spark, tmp_path / "t.jsonl", model, tmp_path / "out", id_column=None, threshold=0.9)
    assert summary.counts.errors_by_code == {"not_an_object": 1}
    assert summary.error_examples["not_an_object"][0].image_id == "t.jsonl#4"
    found = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert found["id"].tolist() == [f"t.jsonl#{n}" for n in range(21) if n != 4]
    scores = [score_of(row) for row in rows]
    assert found["prediction_class"].tolist() == [int(score >= 0.9) for score in scores]
    check_whole(tmp_path / "out")
