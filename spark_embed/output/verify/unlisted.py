"""What stands beside the published files: files that nobody lists, and metadata.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spark_embed.errors import StorageError
from spark_embed.output.folder import METADATA_NAME, Output
from spark_embed.output.records import Ledger
from spark_embed.output.verify.report import Finding
from spark_embed.storage import list_files, read_json


def find_unlisted(output: Output, ledger: Ledger) -> Iterator[Finding]:
    """Say which files a reader of the two folders would take for the data set's, and are not."""
    for name, published in ledger.tables:
        listed = {file.name for file in published}
        if listed == {name}:  # one file, which is checked as such
            continue
        try:
            unlisted = [file.path for file in list_files(output.table(name), "") if file.path not in listed]
        except StorageError as exc:
            yield Finding("files", str(exc))
            continue
        for path in unlisted:
            yield Finding(
                "files",
                f"{name}/{path}: is not in files.json; if a run was interrupted, start it again, else delete "
                "the file",
            )


def check_summary(output: Output, ledger: Ledger) -> Iterator[Finding]:
    """Compare metadata.json with the ledger."""
    try:
        summary = read_json(output.metadata)
    except StorageError as exc:
        yield Finding("metadata", str(exc))
        return
    described, counts = _object(_object(summary).get("output")), _object(_object(summary).get("counts"))
    if summary is None:
        yield Finding("metadata", f"{METADATA_NAME}: is missing: a run was interrupted, start it again")
    elif (described.get("run_id"), described.get("generation")) != (ledger.run_id, ledger.generation):
        yield Finding(
            "metadata", f"{METADATA_NAME}: is of another state: a run was interrupted, start it again"
        )
    else:
        wanted = {
            "rows": ledger.n_embedded + ledger.n_errors,
            "embedded": ledger.n_embedded,
            "errors": ledger.n_errors,
            "errors_by_code": ledger.n_errors_by_code,
            "errors_by_result": ledger.n_errors_by_result,
        }
        for name, value in wanted.items():
            if counts.get(name, {}) != value:
                text = f"{METADATA_NAME}: counts.{name} is {counts.get(name)}, by files.json {value}"
                yield Finding("metadata", text)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
