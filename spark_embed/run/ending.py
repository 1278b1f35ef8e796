"""How a run ends that could not do all: what may be published, and the error that says what is left."""

from __future__ import annotations

from collections.abc import Sequence

from spark_embed.datasets import BadShard
from spark_embed.errors import BadShardsError, StoppedError
from spark_embed.output.summary import RunSummary
from spark_embed.run.limit import Limit
from spark_embed.run.plan import Plan
from spark_embed.run.publisher import Publisher


def check_may_publish(limit: Limit, plan: Plan, publisher: Publisher, bad: Sequence[BadShard]) -> None:
    """Let what is complete wait for what is not, where readers would find half of something.

    Raises:
        StoppedError, BadShardsError: it waits.
    """
    config = limit.config
    if limit.is_reached and not (publisher.may_publish_part and publisher.has_rows):
        raise _stopped(limit, plan, publisher)
    if config.output_files and bad and config.fail_on_bad_shard:
        raise _bad_shards(bad, "all others are done, and the one file (--output_files) waits for them")


def check_whole(
    limit: Limit, plan: Plan, publisher: Publisher, bad: Sequence[BadShard], summary: RunSummary
) -> None:
    """Tell by an error that not every row is there: exit code 0 says that each is.

    Raises:
        StoppedError, BadShardsError: rows are pending.
    """
    if limit.is_reached:
        raise _stopped(limit, plan, publisher, summary.text())
    if bad and limit.config.fail_on_bad_shard:
        raise _bad_shards(bad, "all others are done and published", summary.text())


def _bad_shards(bad: Sequence[BadShard], others: str, summary: str = "") -> BadShardsError:
    return BadShardsError(
        f"{len(bad):,} shards cannot be read; {others}; the first, {bad[0].name}: {bad[0].reason}; mend or "
        "remove them and start the same command again (--fail_on_bad_shard false: do without them)",
        summary,
    )


def _stopped(limit: Limit, plan: Plan, publisher: Publisher, summary: str = "") -> StoppedError:
    pending, config = plan.pending, limit.config
    where = "complete and published" if summary else "complete, and will be published once all are"
    again = "the same command" + (" without --overwrite" if config.overwrite else "") + " goes on"
    if not (publisher.of_this_run or limit.spent):
        again += ", but give it more time, or shorter waves (--wave_s): this run has completed none"
    return StoppedError(
        f"stopped at {limit}: {pending.n_complete + publisher.n_rows:,} of {pending.n_rows:,} rows are "
        f"{where}; {again}",
        summary,
    )
