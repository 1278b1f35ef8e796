"""Say in Markdown what is in an output folder, and copy its records: for the page of a run of GitHub Actions.

Usage: summarise_run.py OUTPUT_DIR TO

Ends well whatever the run came to, also where there is nothing yet: the run's own step has failed by then.
"""

import argparse
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from spark_embed.errors import SparkEmbedError
from spark_embed.output.folder import Output
from spark_embed.output.state import read_ledger, read_metadata
from spark_embed.output.status import read_status
from spark_embed.schema import ERRORS_NAME
from spark_embed.storage import folder_path, parquet_input, read_text

N_ERRORS = 100


def fenced(text: str) -> str:
    """Return a text as Markdown shows it letter by letter, whatever is in it."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def describe_status(output: Output, to: Path) -> str:
    """Return how far the run is; status.json says the same."""
    status = read_status(output)
    (to / "status.json").write_text(status.to_json() + "\n")
    return f"### {status.state}\n\n{fenced(status.text())}"


def describe_last_run(output: Output, to: Path) -> str:
    """Return what the last run that wrote its summary came to, with metadata.json as it is."""
    summary = read_metadata(output)
    if summary is None:
        return "No run has written its summary there."
    (to / "metadata.json").write_text(read_text(output.metadata) or "")
    return f"### The run that ended {summary.finished_at}\n\n{fenced(summary.text())}"


def sample_errors(output: Output, to: Path) -> str:
    """Return how many rows have failed; the first of them are in errors.jsonl."""
    ledger = read_ledger(output)
    n_errors = sum(file.n_rows for file in ledger.errors) if ledger else 0
    if ledger is None or not n_errors:
        return ""
    rows = [json.dumps(row, default=str) for row in islice(error_rows(output), N_ERRORS)]
    (to / "errors.jsonl").write_text("\n".join(rows) + "\n")
    return f"{n_errors:,} rows in errors.parquet; {len(rows):,} of them are among the results."


def error_rows(output: Output) -> Iterator[dict[str, object]]:
    """Read the published errors, file by file."""
    ledger = read_ledger(output)
    for file in ledger.errors if ledger else ():
        with pq.ParquetFile(parquet_input(output.data_path(ERRORS_NAME, file.name))) as table:
            for batch in table.iter_batches(batch_size=N_ERRORS):
                yield from batch.to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output_dir")
    parser.add_argument("to", type=Path, help="folder for metadata.json, status.json and errors.jsonl")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    print(f"## `{given.output_dir}`\n")
    for part in (describe_status, describe_last_run, sample_errors):
        try:
            print(part(Output(folder_path(given.output_dir, "OUTPUT_DIR")), given.to) + "\n")
        except (SparkEmbedError, OSError) as exc:
            print(fenced(str(exc)) + "\n")


if __name__ == "__main__":
    main()
