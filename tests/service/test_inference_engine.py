"""BatchInferenceEngine: what scripts of the earlier engine call, without Spark; a row out for each row in."""

import csv
import logging

import pandas as pd
import pytest
import torch

from spark_embed import BatchInferenceEngine, ConfigError
from spark_embed.errors import ModelError

from support.tabular import GOOD, SIGNATURE, score_of, write_config, write_export, write_state

OUT = ["prediction_score", "prediction_class", "timestamp"]


@pytest.fixture
def model(tmp_path):
    folder = write_config(tmp_path / "model")
    write_state(folder / "model.pt")
    return folder


def rows_of(n_rows):
    return [{"user_id": f"{n:04d}", **GOOD, "age": n % 70, "region": 1 + n % 4} for n in range(n_rows)]


def close(score):
    return pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_csv_in_csv_out_in_order_whatever_the_chunks(tmp_path, model, num_workers):
    rows = rows_of(150)
    pd.DataFrame(rows[:100]).to_csv(tmp_path / "a.csv", index=False)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("0x,y\n")
    pd.DataFrame(rows[100:]).assign(more=1).to_csv(tmp_path / "b.csv.gz", index=False, sep=";")
    engine = BatchInferenceEngine(model, batch_size=16, device="cpu", num_workers=num_workers)
    stats = engine.predict_csv(
        [tmp_path / "a.csv", tmp_path / "b.csv.gz"],
        tmp_path / "out.csv",
        id_column="user_id",
        include_features=True,
        chunksize=33,
    )
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["user_id", *OUT, *GOOD, "error", "error_detail"]
    assert [row["user_id"] for row in found] == [*(row["user_id"] for row in rows[:100]), ""] + [
        row["user_id"] for row in rows[100:]
    ]
    scores = [float(row["prediction_score"]) for row in found if not row["error"]]
    assert scores == [close(score_of(row)) for row in rows]
    assert found[100]["error"] == "wrong_field_count"
    assert (stats["rows"], stats["predicted"], stats["errors_by_code"]) == (
        151,
        150,
        {"wrong_field_count": 1},
    )
    assert stats == engine.get_stats() | {"generated_at": stats["generated_at"]}
    engine.predict_csv(tmp_path / "a.csv", tmp_path / "out.parquet")
    assert pd.read_parquet(tmp_path / "out.parquet")["id"].tolist()[-1] == "a.csv#100"


def test_a_frame_gives_a_frame_of_the_same_rows(model, caplog):
    caplog.set_level(logging.INFO)
    rows = rows_of(1000)
    frame = pd.DataFrame(rows).set_index(pd.Index(range(1000, 0, -1)))
    frame.iloc[3, frame.columns.get_loc("region")] = 9
    frame["age"] = frame["age"].astype(object)
    frame.iloc[4, frame.columns.get_loc("age")] = "old"
    frame.iloc[5, frame.columns.get_loc("age")] = None
    found = BatchInferenceEngine(model, batch_size=2).predict_dataframe(frame, "user_id")
    assert list(found.columns) == ["user_id", *OUT, "error", "error_detail"]
    assert found.index.equals(frame.index)
    assert found["user_id"].tolist() == [row["user_id"] for row in rows]
    assert found["error"].iloc[3:6].tolist() == ["unknown_category", "wrong_type", "missing_value"]
    good = [n for n in range(1000) if n not in (3, 4, 5)]
    assert found["prediction_score"].iloc[good].tolist() == [close(score_of(rows[n])) for n in good]
    assert found["prediction_score"].isna().sum() == 3
    assert "500 batches, 1,000 rows" in caplog.text
    with pytest.raises(ConfigError, match="no column 'age'"):
        BatchInferenceEngine(model).predict_dataframe(frame.drop(columns="age"))


def test_a_list_of_dicts_gives_one(model):
    engine = BatchInferenceEngine(model, threshold=0.999)
    rows = [
        {**GOOD, "age": 3, "extra": 1},
        {"age": 1},
        {**GOOD, "age": "x"},
        {**GOOD, "age": 3.0, "income": 1},
    ]
    found = engine.predict_batch(rows)
    assert [row["error"] for row in found] == [None, "missing_value", "wrong_type", None]
    assert found[0]["prediction_score"] == close(score_of({**GOOD, "age": 3}))
    assert (found[0]["prediction_class"], found[1]["prediction_class"]) == (0, None)
    assert engine.predict_batch([]) == []
    assert engine.get_stats()["rows"] == 4


class Tolerant(torch.nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Give 0.5, whatever is missing."""
        return torch.nan_to_num(rows)[:, :1] * 0 + 0.5


def test_a_line_that_is_no_row_has_no_score_and_counts_once(tmp_path):
    inputs = [{**one, "required": False} for one in SIGNATURE["inputs"]]
    signature = {"inputs": inputs, "output": {"kind": "binary"}}
    folder = write_config(tmp_path / "model", signature=signature)
    torch.jit.save(torch.jit.script(Tolerant()), folder / "model.pt")
    pd.DataFrame(rows_of(2)).to_csv(tmp_path / "t.csv", index=False)
    with (tmp_path / "t.csv").open("a") as file:
        file.write("too,few\n")
    stats = BatchInferenceEngine(folder).predict_csv(tmp_path / "t.csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        found = [(row["error"], row["prediction_score"]) for row in csv.DictReader(file)]
    assert found == [("", "0.5"), ("", "0.5"), ("wrong_field_count", "")]
    assert (stats["rows"], stats["predicted"]) == (3, 2)


def test_values_that_are_none_of_a_cell_are_error_rows(model):
    rows = [{**GOOD, "age": [1, 2]}, GOOD, {**GOOD, "plan": {"a": 1}}]
    found = BatchInferenceEngine(model).predict_batch(rows)
    assert [row["error"] for row in found] == ["wrong_type", None, "unknown_category"]


def test_columns_that_the_output_cannot_tell_apart_are_refused(tmp_path, model):
    frame = pd.DataFrame(rows_of(3)).assign(error="x", timestamp=1)
    engine = BatchInferenceEngine(model)
    for name in ("error", "timestamp"):
        with pytest.raises(ConfigError, match=f"a column '{name}', which the output needs for itself"):
            engine.predict_dataframe(frame, id_column=name)
        with pytest.raises(ConfigError, match=f"a column '{name}', which the output needs for itself"):
            engine.predict_csv(tmp_path / "none.csv", tmp_path / "out.csv", id_column=name)
    twice = pd.concat([frame, frame[["age"]]], axis=1)
    with pytest.raises(ConfigError, match="the frame has two columns 'age'"):
        engine.predict_dataframe(twice)


def test_an_exported_model_is_loaded_where_it_is_trusted(tmp_path):
    folder = write_config(tmp_path / "model")
    write_export(folder / "model.pt2")
    with pytest.raises(ModelError, match="--trust_remote_code"):
        BatchInferenceEngine(folder)
    found = BatchInferenceEngine(folder, trust_remote_code=True).predict_batch([GOOD])
    assert found[0]["prediction_score"] == close(score_of(GOOD))
