"""What is made of a table's predictions once they are published: the report, and the one CSV file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from spark_embed.output.folder import Output, note_extra
from spark_embed.output.prediction_csv import write_prediction_csv
from spark_embed.output.prediction_report import Columns, make_report, read_scores
from spark_embed.output.records import Ledger, now
from spark_embed.output.report_text import report_text
from spark_embed.run.context import RunContext
from spark_embed.schema import PREDICTION_CLASS, PREDICTION_SCORE, PREDICTIONS_NAME
from spark_embed.storage import delete, exists, write_json, write_text

CSV_NAME = "predictions.csv"
REPORT_JSON, REPORT_TEXT = "report.json", "report.txt"


def write_table_outputs(context: RunContext, ledger: Ledger, model: Mapping[str, Any]) -> dict[str, Any]:
    """Write them; returns the report as JSON values.

    A CSV file of an earlier state goes where this run is not to write one.

    Raises:
        StorageError: one cannot be written, or the predictions cannot be read back.
    """
    output, config = context.output, context.config
    for name in (CSV_NAME, REPORT_JSON, REPORT_TEXT):
        note_extra(output, name)
    if config.output_format == "csv":
        write_prediction_csv(output, ledger, _place(output, CSV_NAME))
    elif exists(_place(output, CSV_NAME)):
        delete(_place(output, CSV_NAME))
    signature = json.loads(model["signature"])
    classes = None if signature["kind"] == "regression" else PREDICTION_CLASS
    paths = [output.data_path(ledger.table, file.name) for file in ledger.results]
    (scores,) = read_scores(paths, [Columns(PREDICTION_SCORE, classes)])
    report = make_report(
        scores,
        signature,
        ledger.n_errors_by_code,
        {
            "input": config.input_dir,
            "output": _place(output, CSV_NAME if config.output_format == "csv" else PREDICTIONS_NAME),
            "model": f"{model['name']} at {model['source']}",
            "generated_at": now(),
        },
    ).to_dict()
    write_json(_place(output, REPORT_JSON), report)
    write_text(_place(output, REPORT_TEXT), report_text(report) + "\n")
    return report


def lacks_outputs(context: RunContext) -> bool:
    """Say whether a file is not there that the options want."""
    wanted = [REPORT_JSON, REPORT_TEXT, *([CSV_NAME] if context.config.output_format == "csv" else [])]
    return not all(exists(_place(context.output, name)) for name in wanted)


def _place(output: Output, name: str) -> str:
    return os.path.join(output.root, name)
