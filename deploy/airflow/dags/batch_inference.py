"""Every night: a table is validated, scored, reported on and archived; docs/airflow.md says how to begin."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import DAG, Context, Param, chain
from spark_embed_tasks import (
    Archive,
    Cleanup,
    ProjectCommand,
    RunFolders,
    nightly,
    submit,
    text_param,
)


class ValidateInput(ProjectCommand):
    """Is the table what the model takes, and the rules say? XCom `row_count`."""

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """See `ProjectCommand`."""
        params = context["params"]
        rules = ["--rules", params["rules"]] if params["rules"] else []
        model = ["--signature", params["model_path"], "--id_column", params["id_column"]]
        return [["spark-embed", "validate", run.input, *rules, *model, "--json"]]

    def results(self, context: Context, run: RunFolders, printed: Mapping[str, Any]) -> dict[str, Any]:
        """See `ProjectCommand`."""
        return {"row_count": printed["row_count"]}


class RunPredictions(ProjectCommand):
    """Score each row. XCom `output_path`."""

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """See `ProjectCommand`."""
        params = context["params"]
        flags = {
            "input": run.input,
            "output": run.output,
            "model_directory": params["model_path"],
            "id_column": params["id_column"],
            "batch_size": params["batch_size"],
        }
        return [submit(run, "predict", flags)]

    def results(self, context: Context, run: RunFolders, printed: Mapping[str, Any]) -> dict[str, Any]:
        """See `ProjectCommand`."""
        return {"output_path": run.output}


class GenerateReport(ProjectCommand):
    """Is each row there, once; has it drifted; what are the scores? XComs `report_path`, `n_errors`."""

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """See `ProjectCommand`."""
        params = context["params"]
        id_column = ["--id_column", params["id_column"]]
        commands = []
        if params["reference"]:
            is_run = os.path.isdir(os.path.join(run.home, params["reference"], "predictions.parquet"))
            current = run.output if is_run else run.input
            limit = ["--on_drift", params["on_drift"], "--threshold", str(params["drift_threshold"])]
            commands = [["spark-embed", "drift", params["reference"], current, *id_column, *limit]]
        return [
            *commands,
            ["spark-embed", "validate", run.input, "--predictions", run.output, *id_column, "--json"],
        ]

    def results(self, context: Context, run: RunFolders, printed: Mapping[str, Any]) -> dict[str, Any]:
        """See `ProjectCommand`."""
        path = os.path.join(run.output, "report.txt")  # which the run has written, with report.json
        with open(path, encoding="utf-8") as report:
            self.log.info("\n%s", report.read())
        return {"report_path": path, "n_errors": printed["n_errors"]}


with DAG(
    "batch_inference",
    description="Validate a table, score it, report, archive",
    **nightly(),
    params={
        "input_path": text_param("demo/table.csv", "a table: CSV, JSONL or parquet; {ds} is the day"),
        "output_path": text_param("demo/predictions", "each data interval has a folder below it"),
        "model_path": text_param("models/tabular_example", "folder of the model"),
        "batch_size": Param(256, type="integer", minimum=1, description="rows of a forward pass"),
        "id_column": text_param("user_id", "column that names a row, each once"),
        "archive_dir": text_param("demo/archive", "each data interval has a folder below it"),
        "rules": text_param(None, "YAML of rules beside the model's signature (docs/tables.md)"),
        "reference": text_param(None, "a table, or the output of a run, to look for drift against"),
        "on_drift": Param("warn", enum=["warn", "fail"], description="what drift does, to the run"),
        "drift_threshold": Param(0.25, type="number", minimum=0, description="a PSI above it is drift"),
    },
) as dag:
    chain(
        ValidateInput(task_id="validate_input"),
        RunPredictions(task_id="run_predictions"),
        GenerateReport(task_id="generate_report"),
        Archive(task_id="archive"),
        Cleanup(task_id="cleanup"),
    )
