"""find_duplicates(): what is published -> near pairs, clusters with one to keep, and how sure that is."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from spark_embed.errors import ConfigError, ImageError, ModelError, StorageError
from spark_embed.output.folder import Output
from spark_embed.output.lock.lock import OutputLock
from spark_embed.output.records import now
from spark_embed.output.state import read_ledger
from spark_embed.search.buckets import Found, find_in_buckets, spreads_of, true_pairs
from spark_embed.search.calibration import calibrate
from spark_embed.search.clusters import Clusters, first_of_same, make_clusters
from spark_embed.search.data_set_record import of_data_set
from spark_embed.search.duplicate_tables import (
    CLUSTERS_NAME,
    PAIRS_NAME,
    Counts,
    places_in,
    ranks_of,
    read_rows,
    write_clusters,
    write_pairs,
)
from spark_embed.search.duplicates_record import METADATA_NAME, Duplicates, read_duplicates
from spark_embed.search.files import key_of, take_folder
from spark_embed.search.near import EXACT_MAX, Pairs, join_pairs, learn_centres
from spark_embed.search.ranked import Source, collapsed, different_pairs, in_order, read_ranked
from spark_embed.search.same_bytes import by_column, by_reading, find_hash_column
from spark_embed.search.training import draw
from spark_embed.search.vectors import DataSet, Rows, dim_of, read_data_set, read_schema
from spark_embed.storage import (
    delete,
    folder_path,
    list_names,
    read_json,
    write_json,
    write_text,
)

logger = logging.getLogger(__name__)

DUPLICATES_NAME = "duplicates"
CALIBRATION_NAME = "calibration.json"

MAX_PAIRS = 100_000_000
"""They take about a hundred bytes each of this program's memory when they are made into clusters."""

_HERE_BYTES = 512 << 20
"""Vectors of so many bytes this process compares by itself."""

_BUCKET_BYTES = 64 << 20
_MAX_BUCKETS = 4096
_TRAIN_PER_BUCKET = 200
_WORK_PREFIX = "work-"
_OUR_PREFIXES = (METADATA_NAME, CALIBRATION_NAME, PAIRS_NAME, CLUSTERS_NAME, "lock.", _WORK_PREFIX)


@dataclass(frozen=True)
class DuplicatesOptions:
    """What is a duplicate.

    Attributes:
        threshold: of the cosine of two vectors.
        keep: a column; of a cluster the row with its largest value is kept. None: the first by shard and row.
        hash_column: with a hash of the images' bytes; None for one of the usual names, if there is one.
        column: of the vectors; None for the images'.
        n_calibrated: pictures to make copies of; 0 for none.
        model: options that say where the model is now (`spark_embed.search.query`).
    """

    threshold: float = 0.95
    keep: str | None = None
    hash_column: str | None = None
    column: str | None = None
    n_calibrated: int = 50
    model: Mapping[str, Any] = field(default_factory=dict)


def find_duplicates(
    output_dir: str,
    to: str | None = None,
    options: DuplicatesOptions = DuplicatesOptions(),
    session: Callable[[], SparkSession] | None = None,
) -> tuple[Duplicates, dict[str, Any] | None]:
    """Find what is published more than once in an output folder, and write the tables.

    Args:
        output_dir: of a run.
        to: the folder of the tables; None for `duplicates` in the output folder.
        options: what is a duplicate.
        session: gives a Spark session, where there is much; None: this process does all.

    Returns:
        What was found, and what calibration says, if anything.

    Raises:
        ConfigError: nothing is published, an option is wrong, or there are too many pairs.
        ResumeError: another is at work in the folder, or what stands in it is not ours.
        StorageError: a file cannot be read or written.
    """
    if not 0 < options.threshold < 1:
        raise ConfigError(f"--threshold {options.threshold:g}: must be between 0 and 1")
    data = read_data_set(output_dir, options.column)
    root = folder_path(to or f"{data.root}/{DUPLICATES_NAME}", "--to")
    take_folder(root, data.root, _OUR_PREFIXES, "--to")
    with OutputLock(f"{root}/lock.json", root) as lock:
        dim = dim_of(data)
        schema = read_schema(data.path(data.files[0].name))
        if options.keep is not None and options.keep not in schema.names:
            raise ConfigError(f"--keep {options.keep}: no such column; there are {', '.join(schema.names)}")
        hashes = find_hash_column(schema, options.hash_column)
        question = key_of(
            *(data.run_id, data.generation, data.fingerprint, data.column, list(map(list, data.files))),
            *(options.threshold, options.keep, hashes),
        )
        known = read_duplicates(root)
        calibration = _calibrated(data, dim, root, options)
        if known and known.question == question and {PAIRS_NAME, CLUSTERS_NAME} <= set(list_names(root)):
            logger.info("nothing to do: the tables are there")
            return known, calibration
        work = f"{root}/{_WORK_PREFIX}{question}"
        _tidy(root, but=work)
        asked = _Asked(data, dim, root, options, question, hashes)
        found, n_queries = _find(asked, work, session)
        lock.check()
        delete(f"{root}/{METADATA_NAME}")  # of other tables than those that are now written
        made = _write(asked, found, n_queries, session)
        write_text(f"{root}/{METADATA_NAME}", made.model_dump_json(indent=1) + "\n")
        delete(work)
    return made, calibration


@dataclass(frozen=True)
class _Asked:
    """What is looked for, where, and where the answer goes.

    Attributes:
        dim: length of the vectors.
        root: folder of the tables.
        question: names all that decides the answer.
        hashes: the column that says which pictures are the same bytes; None for none.
    """

    data: DataSet
    dim: int
    root: str
    options: DuplicatesOptions
    question: str
    hashes: str | None

    def shards(self) -> tuple[str, ...]:
        """Return the names of the data set's shards, in order."""
        ledger = read_ledger(Output(self.data.root))
        return tuple(sorted(ledger.shards if ledger else ()))

    def record(
        self, counts: Counts, same_bytes_by: str, n_queries: int, n_true_pairs: int, recall: float | None
    ) -> Duplicates:
        """Return what to write of the answer."""
        data = self.data
        return Duplicates(
            made_at=now(),
            question=self.question,
            **of_data_set(data, self.dim),
            threshold=self.options.threshold,
            keep=self.options.keep,
            same_bytes_by=same_bytes_by,
            **dataclasses.asdict(counts),
            n_queries=n_queries,
            n_true_pairs=n_true_pairs,
            recall=recall,
        )


def _find(asked: _Asked, work: str, session: Callable[[], SparkSession] | None) -> tuple[Found, int]:
    """Return the pairs, and how many vectors were compared with all to tell how many of them are found."""
    data, dim, options = asked.data, asked.dim, asked.options
    firsts = np.cumsum([0, *(file.n_rows for file in data.files)])
    paths = tuple(data.path(file.name) for file in data.files)
    source = Source(paths, tuple(firsts[:-1].tolist()), data.column, dim, options.keep, asked.shards())
    n_bytes = 4 * dim * data.n_rows
    if session is None or n_bytes <= _HERE_BYTES:
        whole, same = collapsed(in_order(list(read_ranked(source, data.n_rows))))
        pairs = different_pairs(whole, options.threshold)
        n_queries = min(len(whole.numbers), 256) if len(whole.numbers) > EXACT_MAX else 0
        some = np.random.default_rng(0).choice(len(whole.numbers), n_queries, replace=False)
        truth = true_pairs(whole.vectors[some], whole.numbers[some], whole, options.threshold)
        return Found(pairs, same, truth), n_queries
    n_buckets = max(2, min(_MAX_BUCKETS, math.ceil(n_bytes / _BUCKET_BYTES)))
    sample, drawn = draw(data, dim, n_buckets * _TRAIN_PER_BUCKET)
    spreads = spreads_of(
        work,
        source,
        [file.n_rows for file in data.files],
        max(1, _HERE_BYTES // (4 * dim)),
        options.threshold,
    )
    logger.info("%d buckets of vectors, from %d parts of the data set", n_buckets, len(spreads))
    queries = drawn.vectors, firsts[drawn.files] + drawn.rows
    found = find_in_buckets(
        session(), work, spreads, learn_centres(sample, n_buckets), queries, _check_number
    )
    return found, len(drawn.vectors)


def _write(
    asked: _Asked, found: Found, n_queries: int, session: Callable[[], SparkSession] | None
) -> Duplicates:
    """Write the two tables; returns what they hold."""
    data, keep, hashes = asked.data, asked.options.keep, asked.hashes
    _check_number(len(found.pairs.first) + len(found.same.first))
    numbers = np.unique(np.concatenate([*found.pairs[:2], *found.same[:2]]))
    rows = read_rows(data, numbers, [name for name in (keep, hashes) if name])
    ranks = ranks_of(rows, keep, list(asked.shards()))
    near = _placed(found.pairs, numbers)
    same = _placed(found.same, numbers)
    clusters = make_clusters(near, same, ranks)
    firsts = first_of_same(same, len(numbers))
    seconds = np.flatnonzero(firsts != np.arange(len(numbers)))
    star = Pairs(firsts[seconds], seconds, np.ones(len(seconds), np.float32))
    pairs = join_pairs([near, star])
    in_question = Pairs(clusters.kept, np.arange(len(numbers)), clusters.scores)
    if hashes:
        contents = by_column(rows[hashes], hashes)
    else:
        contents = by_reading(data.root, rows, join_pairs([pairs, _others(in_question)]), session)
    write_pairs(f"{asked.root}/{PAIRS_NAME}", rows, pairs, contents)
    counts = write_clusters(
        f"{asked.root}/{CLUSTERS_NAME}", rows, clusters, ranks, contents, len(pairs.first)
    )
    recall = 1.0 if not n_queries else _recall(found, numbers, clusters, firsts)
    return asked.record(counts, contents.source, n_queries, len(found.truth.queries), recall)


def _recall(found: Found, numbers: Rows, clusters: Clusters, firsts: Rows) -> float | None:
    """Return which part of true pairs is found: as a pair, or in one cluster; None if there are none."""
    n_true = len(found.truth.queries)
    if not n_true:
        return None
    is_there = np.isin(found.truth.queries, numbers) & np.isin(found.truth.others, numbers)
    one, other = (firsts[places_in(numbers, side[is_there])] for side in found.truth)
    near = _placed(found.pairs, numbers)
    n = len(numbers)
    is_pair = np.isin(np.minimum(one, other) * n + np.maximum(one, other), near.first * n + near.second)
    is_found = (one == other) | is_pair | (clusters.kept[one] == clusters.kept[other])
    return round(float(is_found.sum() / n_true), 4)


def _placed(pairs: Pairs, numbers: Rows) -> Pairs:
    return Pairs(places_in(numbers, pairs.first), places_in(numbers, pairs.second), pairs.scores)


def _others(pairs: Pairs) -> Pairs:
    is_other = pairs.first != pairs.second
    return Pairs(*(array[is_other] for array in pairs))


def _check_number(n_pairs: int) -> None:
    if n_pairs > MAX_PAIRS:
        raise ConfigError(
            f"--threshold: more than {MAX_PAIRS:,} pairs are as near as that: give a higher one"
        )


def _calibrated(data: DataSet, dim: int, root: str, options: DuplicatesOptions) -> dict[str, Any] | None:
    """Return what calibration says, as an earlier call of this run's has written or anew."""
    path = f"{root}/{CALIBRATION_NAME}"
    known: dict[str, Any] | None = read_json(path)
    of_run = {"run_id": data.run_id, "column": data.column}
    if known and of_run.items() <= known.items() and known.get("n_asked") == options.n_calibrated:
        return known
    if not options.n_calibrated:
        return None
    try:
        found = calibrate(data, options.n_calibrated, dim, options.model)
    except (ConfigError, ImageError, ModelError, StorageError) as exc:
        logger.warning("no calibration of the threshold: %s", exc)
        return None
    found = {**of_run, "n_asked": options.n_calibrated, **found}
    write_json(path, found)
    return found


def _tidy(root: str, but: str) -> None:
    """Delete what interrupted calls with other questions have left."""
    for name in list_names(root):
        if name.startswith(_WORK_PREFIX) and f"{root}/{name}" != but:
            delete(f"{root}/{name}")
