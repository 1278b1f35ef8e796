"""What cannot be done to a data set whose kinds are one file each (--output_files 1): anything at all."""

from __future__ import annotations

from collections.abc import Iterator

from spark_embed.errors import ResumeError
from spark_embed.output.records import Ledger
from spark_embed.run.context import RunContext
from spark_embed.run.plan import Work
from spark_embed.run.retry import files_with_errors


def check_unchanged(context: RunContext, work: Work) -> None:
    """Refuse to change the file of a data set, once it is published; to be called before any work.

    Raises:
        ResumeError: there is something to add to it, or to take away.
    """
    ledger = work.standing.ledger
    if ledger is None or not context.config.output_files:
        return
    if changes := "; ".join(_changes(context, work, ledger)):
        output = context.output
        raise ResumeError(
            f"--output_dir {output.root}: {ledger.table} is one file (--output_files 1), which cannot be "
            f"added to or changed, but {changes}. --overwrite starts anew; without --output_files later runs "
            "can add to what that writes"
        )


def _changes(context: RunContext, work: Work, ledger: Ledger) -> Iterator[str]:
    config, pending = context.config, work.pending
    if pending.n_left:
        yield f"{pending.n_left:,} rows of the input are not in it"
    if pending.replaced:
        yield f"{len(pending.replaced):,} shards have been replaced"
    if config.prune and pending.gone:
        yield f"--prune takes away {len(pending.gone):,} shards"
    if config.retry_errors and (failed := files_with_errors(ledger)):
        n_rows = sum(file.n_errors for file in failed)
        yield f"--retry_errors has {n_rows:,} rows to embed once more"
    if work.standing.markers:
        yield f"{len(work.standing.markers):,} complete waves are not in it"
