"""After a run: is each row of the input in its output, once, with a score or an error?"""

import pandas as pd
import pytest

from spark_embed.cli.main import main
from spark_embed.tables.predictions import check_predictions

from support.customers import customers


@pytest.fixture
def run(tmp_path):
    """A table, and what a run over it wrote: the last ten rows are errors; changed by `change`."""

    def run(change=lambda predicted, failed: (predicted, failed)) -> list[str]:
        table = customers(200)
        table.to_csv(tmp_path / "t.csv", index=False)
        predicted = pd.DataFrame({"user_id": table.user_id[:190], "prediction_score": 0.5})
        failed = pd.DataFrame({"user_id": table.user_id[190:], "error": "missing_value"})
        for name, rows in zip(("predictions", "errors"), change(predicted, failed), strict=True):
            (tmp_path / f"out/{name}.parquet").mkdir(parents=True)
            rows.to_parquet(tmp_path / f"out/{name}.parquet/part-0.parquet")
        found = check_predictions(str(tmp_path / "t.csv"), str(tmp_path / "out"), "user_id")
        assert found.row_count == 200
        return found.broken

    return run


def test_nothing_is_broken_where_each_row_is_there_once(run, tmp_path, capsys):
    assert run() == []
    flags = ["--predictions", str(tmp_path / "out"), "--id_column", "user_id"]
    assert main(["validate", str(tmp_path / "t.csv"), *flags]) == 0
    assert main(["validate", str(tmp_path / "t.csv"), *flags, "--rules", "r.yaml"]) == 2
    assert "--predictions: needs --id_column, and neither" in capsys.readouterr().err


CHANGES = {
    "a lost row": (
        lambda predicted, failed: (predicted[1:], failed),
        ["199 rows in the output, and 200 in the input", "user_id: 1 ids are in the input alone: 0000000"],
    ),
    "a row of nobody": (
        lambda predicted, failed: (predicted, pd.concat([failed, failed[:1].assign(user_id="x")])),
        ["201 rows in the output, and 200 in the input", "user_id: 1 ids are in the output alone: x"],
    ),
    "a row in both": (
        lambda predicted, failed: (predicted[:-1], pd.concat([failed, failed[:1]])),
        [
            "user_id: 1 rows of the output repeat the id of another: 0000190",
            "user_id: 1 ids are in the input alone: 0000189",
        ],
    ),
    "no score": (
        lambda predicted, failed: (predicted.assign(prediction_score=[None] + [0.1] * 189), failed),
        ["prediction_score: missing in 1 rows"],
    ),
    "an id without its zeros": (
        lambda predicted, failed: (predicted.assign(user_id=["0", *predicted.user_id[1:]]), failed),
        [
            "user_id: 1 ids are in the input alone: 0000000",
            "user_id: 1 ids are in the output alone: 0",
        ],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_lost_added_or_doubled_is_named(case, run):
    change, lines = CHANGES[case]
    assert run(change) == lines
