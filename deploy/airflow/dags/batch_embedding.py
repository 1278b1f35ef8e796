"""Every night: a folder of images is looked at, embedded, verified, indexed and archived; docs/airflow.md."""

from __future__ import annotations

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


class Embed(ProjectCommand):
    """Embed each image; with `dry_run` only say what would be done. XCom `output_path`."""

    def __init__(self, *, dry_run: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dry_run = dry_run

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """See `ProjectCommand`."""
        params = context["params"]
        flags = {
            "input_dir": run.input,
            "output_dir": run.output,
            "model_directory": params["model_path"],
            "id_column": params["id_column"],
            "batch_size": params["batch_size"],
            "dry_run": True if self.dry_run else None,
        }
        return [submit(run, "embed", flags)]

    def results(self, context: Context, run: RunFolders, printed: Mapping[str, Any]) -> dict[str, Any]:
        """See `ProjectCommand`."""
        return {} if self.dry_run else {"output_path": run.output}


class Verify(ProjectCommand):
    """Is every row there, once, with a good vector or an error?"""

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """See `ProjectCommand`."""
        return [["spark-embed", "verify", run.output]]


class Index(ProjectCommand):
    """Make the embeddings searchable, where that is asked for; XCom `recall`."""

    def commands(self, context: Context, run: RunFolders) -> Sequence[Sequence[str]]:
        """See `ProjectCommand`."""
        is_asked = context["params"]["make_index"]
        return [["spark-embed", "index", run.output, "--json"]] if is_asked else []

    def results(self, context: Context, run: RunFolders, printed: Mapping[str, Any]) -> dict[str, Any]:
        """See `ProjectCommand`."""
        return {"recall": printed["recall"]} if printed else {}


with DAG(
    "batch_embedding",
    description="Look at a folder of images, embed it, verify, index, archive",
    **nightly(),
    params={
        "input_path": text_param("demo/photos", "a data set of any layout; {ds} is the day"),
        "output_path": text_param("demo/embeddings", "each data interval has a folder below it"),
        "model_path": text_param(None, "folder or hub id of the model; nothing for the default"),
        "batch_size": Param(
            None, type=["integer", "null"], minimum=1, description="images of a forward pass"
        ),
        "id_column": text_param(None, "column that names an image"),
        "make_index": Param(
            False, type="boolean", description="for spark-embed search, which is an extra of the project"
        ),
        "archive_dir": text_param("demo/archive_embeddings", "each data interval has a folder below it"),
    },
) as dag:
    chain(
        Embed(task_id="validate_input", dry_run=True),
        Embed(task_id="run_embedding"),
        Verify(task_id="verify"),
        Index(task_id="index"),
        Archive(task_id="archive"),
        Cleanup(task_id="cleanup"),
    )
