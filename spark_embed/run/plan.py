"""What there is to do: the data set, what of it is complete, and what is left. Driver only."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import types as T

from spark_embed.config import Config
from spark_embed.datasets import Layout, ParquetSource, open_source
from spark_embed.datasets.detection.detect import FOLDER
from spark_embed.datasets.index.image_folder import IMAGES_PER_GROUP
from spark_embed.datasets.schema_evolution import with_columns
from spark_embed.datasets.units import Unit, subtract, units_of
from spark_embed.errors import ResumeError
from spark_embed.output.fingerprint import (
    EMBEDDING_VERSION,
    UNGROUPED,
    check_fingerprint,
    describe_rows,
    is_ungrouped_folder,
)
from spark_embed.output.records import RunRecord
from spark_embed.output.resume import RunState, find_run_state
from spark_embed.output.state import joined
from spark_embed.run.context import RunContext
from spark_embed.schema import IMAGE_ID, RESULT, SHARD, SHARD_ROW
from spark_embed.storage import delete

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """What is left to do.

    Attributes:
        units: rows to embed, in shard order.
        replaced: shards of which rows of another content are published.
        gone: shards that are published, or complete, and not in the input any more.
        n_rows: rows of the input.
        n_complete: of them complete.
        n_shards, n_complete_shards: shards of the input, and of them complete; of an image folder, groups.
    """

    units: tuple[Unit, ...]
    replaced: frozenset[str]
    gone: tuple[str, ...]
    n_rows: int
    n_complete: int
    n_shards: int
    n_complete_shards: int

    @property
    def n_left(self) -> int:
        """Rows to embed."""
        return self.n_rows - self.n_complete


@dataclass(frozen=True)
class Plan:
    """A data set, and what is left to do of it."""

    source: ParquetSource
    run_state: RunState
    pending: Pending

    @property
    def units(self) -> tuple[Unit, ...]:
        """The rows to embed. Of a data set without any row none, but as a unit: its output has columns."""
        if self.pending.units or self.run_state.ledger or self.run_state.markers:
            return self.pending.units
        return (Unit(self.source.shards[0], 0, 0),)

    @property
    def dtype(self) -> str | None:
        """The precision of the run to go on with."""
        record = self.run_state.record
        return str(record.fingerprint["dtype"]) if record and "dtype" in record.fingerprint else None

    @property
    def jpeg_scaling(self) -> bool | None:
        """Whether the run to go on with scales large JPEGs; None where there is no run yet."""
        record = self.run_state.record
        return record.fingerprint.get("jpeg_scaling") is not None if record else None


def data_fingerprint(config: Config, source: ParquetSource) -> dict[str, Any]:
    """Return what is known without a model: which rows there are, and which columns go with them."""
    grouped = {"images_per_group": IMAGES_PER_GROUP} if source.layout == FOLDER else {}
    return {
        **grouped,
        "embedding_version": EMBEDDING_VERSION,
        "layout": source.layout,
        "image_column": source.image_column,
        "image_id": _id_source(source),
        "columns": {field.name: field.dataType.simpleString() for field in source.own_columns},
        "rows": describe_rows(config),
        "allow_truncated": config.allow_truncated,
    }


def _id_source(source: ParquetSource) -> str:
    """Return what image_id is made from."""
    if source.id is None:
        return "shard#row"
    return f"{source.id.name} in hex" if isinstance(source.id.dataType, T.BinaryType) else source.id.name


def find_plan(context: RunContext, layout: Layout) -> Plan:
    """Read the state, open the data set and compare the two. Nothing but index and catalogue is written.

    Raises:
        ConfigError, StorageError: the data set cannot be used.
        ResumeError: the state is broken, or of another data set.
    """
    config, output = context.config, context.output
    run_state = find_run_state(output, config)
    if run_state.record is None and layout.is_folder:
        delete(output.index)
    elif run_state.record:
        _refuse_ungrouped(output.root, run_state.record)
    source = open_source(
        context.session, config, layout, index_folder=output.index, catalogue_path=output.catalogue
    )
    if record := run_state.record:
        schema = T.StructType.fromJson(record.table_schema)
        ours = (IMAGE_ID, SHARD, SHARD_ROW, RESULT)
        source = with_columns(source, {f.name: f.dataType for f in schema if f.name not in ours})
        check_fingerprint(output.root, record.fingerprint, data_fingerprint(config, source))
    return Plan(source, run_state, find_pending(source, run_state, config.max_samples))


def _refuse_ungrouped(root: str, record: RunRecord) -> None:
    if is_ungrouped_folder(record.fingerprint):
        raise ResumeError(f"--output_dir {root}: {UNGROUPED}; start anew with --overwrite, or choose another")


def find_pending(source: ParquetSource, run_state: RunState, max_rows: int | None) -> Pending:
    """Compare the input with what is complete.

    Raises:
        ResumeError: the first rows of the data set (--max_samples) are not those that they were.
    """
    versions = {shard.name: shard.version for shard in source.shards}
    published = (
        {name: state.version for name, state in run_state.ledger.shards.items()} if run_state.ledger else {}
    )
    complete = complete_ranges(run_state, versions)
    wanted = units_of(source.shards, max_rows)
    units = tuple(subtract(wanted, complete))
    known = {*published, *(part.shard for marker in run_state.markers for part in marker.units)}
    gone = known - {*versions, *(shard.name for shard in source.bad)}
    replaced = {name for name, version in published.items() if versions.get(name, version) != version}
    n_rows = sum(unit.n_rows for unit in wanted)
    n_left = sum(unit.n_rows for unit in units)
    n_done = sum(number for ranges in complete.values() for _, number in ranges)
    if max_rows is not None and (gone or replaced or n_done > n_rows - n_left):
        changed = f": {min(gone | replaced)} has changed" if gone or replaced else ""
        raise ResumeError(
            f"the first {max_rows} rows of --input_dir {source.root} are not those that were embedded"
            f"{changed}; --overwrite starts anew"
        )
    n_shards = len(source.shards) if max_rows is None else len(names_of(wanted))
    n_pending_shards = len(names_of(units))
    return Pending(
        units,
        frozenset(replaced),
        tuple(sorted(gone)),
        n_rows=n_rows,
        n_complete=n_rows - n_left,
        n_shards=n_shards + len(source.bad),
        n_complete_shards=n_shards - n_pending_shards,
    )


def complete_ranges(
    run_state: RunState, versions: Mapping[str, str]
) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return which rows of each shard are complete, as (first, number), of the content that it has now."""
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    if run_state.ledger:
        for name, state in run_state.ledger.shards.items():
            if versions.get(name) == state.version:
                ranges[name] += state.ranges
    for marker in run_state.markers:
        for part in marker.units:
            if versions.get(part.shard) == part.version:
                ranges[part.shard].append((part.first, part.n_rows))
    return {name: joined(found) for name, found in ranges.items()}


def names_of(units: Iterable[Unit]) -> set[str]:
    """Return the shards that the units are of."""
    return {unit.shard.name for unit in units}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def report_plan(plan: Plan, *, prune: bool) -> None:
    """Say what was found, what of it is complete, and what is not as it was."""
    source, pending = plan.source, plan.pending
    logger.info(
        "found %s %s shards, %s rows",
        f"{source.n_shards:,}",
        source.layout.replace("_", " "),
        f"{source.n_rows:,}",
        extra={"n_shards": source.n_shards, "n_rows": source.n_rows, "n_bytes": source.image_bytes},
    )
    if source.not_used:
        logger.warning("not used: %s", source.not_used)
    for shard in source.bad:
        logger.warning("shard %s is left out, because it cannot be read: %s", shard.name, shard.reason)
    if pending.n_complete:
        logger.info(
            "%s of %s shards complete, %s to do (%s rows)",
            f"{pending.n_complete_shards:,}",
            f"{pending.n_shards:,}",
            f"{pending.n_shards - pending.n_complete_shards - len(source.bad):,}",
            f"{pending.n_left:,}",
        )
    if pending.replaced:
        logger.info(
            "%s shards have been replaced and are done again: %s",
            f"{len(pending.replaced):,}",
            _shown(sorted(pending.replaced)),
        )
    if pending.gone:
        logger.warning(
            "%s shards are no longer in the input%s; their rows are %s",
            f"{len(pending.gone):,}",
            f": {_shown(pending.gone)}",
            "deleted (--prune)" if prune else "kept; --prune deletes them",
        )
