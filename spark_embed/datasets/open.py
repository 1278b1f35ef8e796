"""A folder -> the source of whatever layout it has; the only room that knows which layouts take an index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from spark_embed.config import Config
from spark_embed.datasets.catalogue import Catalogue, hash_shards, read_catalogue, write_catalogue
from spark_embed.datasets.columns import URL_TABLE, find_columns, find_index_columns
from spark_embed.datasets.detection.detect import FOLDER, LISTS, PARQUET, TARS, Layout, detect
from spark_embed.datasets.detection.not_used import NotUsed
from spark_embed.datasets.index.image_folder import make_folder_index
from spark_embed.datasets.index.make import Index, make_index
from spark_embed.datasets.pages import check_readable, is_readable
from spark_embed.datasets.parquet import ParquetSource
from spark_embed.datasets.sample import sample_rows
from spark_embed.datasets.shards import BadShard, Shard, hive_columns, open_shards, schemas_of
from spark_embed.datasets.tables import find_table_layout, open_table
from spark_embed.datasets.unnamed_images import MAX_ROWS, find_not_named
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.inline_text import is_inline_text
from spark_embed.models.registry import takes_image
from spark_embed.schema import IMAGE_ID
from spark_embed.spark.session import Session
from spark_embed.storage import existing_folder, folder_path

_HUB_SNAPSHOT = re.compile(r"(.*/(?:datasets|models|spaces)--[^/]+)/snapshots/[^/]+(?:/|$)")
_SAMPLED_ROWS = 8


def check_input(config: Config) -> str:
    """Return the absolute path of --input_dir.

    Raises:
        ConfigError: it is no folder.
    """
    return existing_folder(config.input_dir, "--input_dir")


def find_layout(config: Config) -> Layout:
    """Find out what --input_dir holds.

    Raises:
        ConfigError: no such folder, nothing to embed, or files of several layouts.
        StorageError: a folder cannot be listed.
    """
    if config.task == "predict":
        return find_table_layout(config)
    root, (column, flag) = check_input(config), _list_column(config)
    roots = readable_roots(config, root)
    layout = detect(root, config.layout, column, roots, quoting=config.list_quoting, flag=flag)
    return replace(layout, has_urls=takes_image(config))


def _list_column(config: Config) -> tuple[str, str]:
    """Return the column that a CSV, TSV or JSONL list must have, and the flag that names it."""
    if config.text_column and not takes_image(config):
        return config.text_column, "--text_column"
    return config.url_column, "--url_column"


def readable_roots(config: Config, root: str) -> tuple[str, ...]:
    """Return the folders that data may lie in, wherever links and paths lead: --input_dir, --allowed_roots.

    The files of a snapshot in the Hugging Face hub's cache are links into the folder `blobs` beside it.

    Raises:
        ConfigError: an option names no folder.
    """
    snapshot = _HUB_SNAPSHOT.match(root)
    blobs = (f"{snapshot[1]}/blobs",) if snapshot else ()
    return (root, *(folder_path(one, "--allowed_roots") for one in config.allowed_roots), *blobs)


def needs_index(layout: Layout) -> bool:
    """Say whether `open_source` writes an index: parquet shards need none."""
    return layout.name != PARQUET


def open_source(
    session: Session, config: Config, layout: Layout, *, index_folder: str, catalogue_path: str
) -> ParquetSource:
    """Return the source of a layout, once it has been indexed where it needs that.

    Args:
        session: gives one when it is needed.
        config: the options.
        layout: what --input_dir holds.
        index_folder: where the index is kept.
        catalogue_path: where what is learned of the files is kept.

    Raises:
        ConfigError: columns that cannot be used, with the flag that helps.
        StorageError: no file can be read.
    """
    if config.task == "predict":
        return open_table(session, config, layout, index_folder=index_folder, catalogue_path=catalogue_path)
    if layout.name == FOLDER:
        index = make_folder_index(session(), layout, index_folder, config.max_samples, config.list_quoting)
        return index_source(config, layout, index)
    catalogue = read_catalogue(catalogue_path)
    layout = identified(session, layout, catalogue, verify=config.verify_shards)
    if needs_index(layout):
        index = make_index(
            session, layout, index_folder, _list_column(config)[0], config.max_samples, config.list_quoting
        )
        source = index_source(config, layout, index)
    else:
        source = shard_source(config, layout, catalogue)
    write_catalogue(catalogue, catalogue_path)
    if layout.beside and config.max_samples is None and source.image_column:
        not_used = NotUsed()
        can_compare = not source.bad and source.n_rows <= MAX_ROWS
        not_used.update([find_not_named(source) if can_compare else layout.beside, source.not_used])
        source = replace(source, not_used=not_used)
    return source


def identified(session: Session, layout: Layout, catalogue: Catalogue, *, verify: bool) -> Layout:
    """Return the layout with the version of each file; with `verify` by their contents.

    Raises:
        StorageError: a file cannot be read.
    """
    files = [*layout.files, *layout.sidecars.values()]
    hashes = hash_shards(session(), layout.root, files) if verify else {}
    versions = {file.path: file for file in catalogue.identified(files, hashes)}
    return replace(
        layout,
        files=tuple(versions[file.path] for file in layout.files),
        sidecars={tar: versions[file.path] for tar, file in layout.sidecars.items()},
    )


def shard_source(config: Config, layout: Layout, catalogue: Catalogue) -> ParquetSource:
    """Return the source of parquet shards; reads the footers that the catalogue does not know.

    Raises:
        ConfigError: columns that cannot be used, with the flag that helps.
        StorageError: no shard can be read.
    """
    root = layout.root
    shards, bad = open_shards(root, layout.files, catalogue)
    _check_some(shards, bad)
    hive = hive_columns(root, shards)
    columns = find_columns(config, root, schemas_of(shards), hive, takes_image=takes_image(config))
    pages = [shard.odd_pages for shard in shards]
    left_out = columns.id and columns.id.name in config.drop_columns and config.id_column is None
    if columns.id and left_out and not is_readable(pages, columns.id.name):
        columns = replace(columns, id=None)  # what was dropped because it cannot be read names nothing either
    source = ParquetSource(
        layout=columns.layout,
        root=root,
        folder=root,
        shards=tuple(shards),
        bad=(*layout.bad, *bad),
        n_shards=len(shards) + len(bad) + len(layout.bad),
        image_bytes=sum(shard.n_bytes for shard in shards),
        own_columns=columns.own,
        image_column=columns.image,
        id=columns.id,
        hive=tuple(hive),
        transport="uri" if columns.layout == URL_TABLE else "bytes" if columns.image else "reference",
        not_used=layout.not_used,
    )
    _check_pages(config, source)
    return _without_inline_text(source, source.image_column) if source.layout == URL_TABLE else source


def index_source(config: Config, layout: Layout, index: Index) -> ParquetSource:
    """Return the source of a data set that has been indexed.

    Raises:
        ConfigError: columns that cannot be used, with the flag that helps.
        StorageError: no file can be read.
    """
    _check_some(index.shards, index.bad)
    if layout.is_folder and config.id_column is None:  # not by an id of its metadata, which some images lack
        config = config.model_copy(update={"id_column": IMAGE_ID})
    columns = find_index_columns(config, schemas_of(index.shards), takes_image=takes_image(config))
    not_used = NotUsed()
    not_used.update([layout.not_used, index.not_used])
    is_img2dataset = layout.name == TARS and bool(layout.sidecars)
    source = ParquetSource(
        layout="img2dataset_webdataset" if is_img2dataset else layout.name,
        root=layout.root,
        folder=index.folder,
        shards=index.shards,
        bad=(*layout.bad, *index.bad),
        # Tars, not the files of their index; groups of images.
        n_shards=len(layout.files) + len(layout.bad) or len(index.shards),
        image_bytes=index.image_bytes,
        own_columns=columns.own,
        image_column=columns.image,
        id=columns.id,
        hive=(),
        transport="index",
        not_used=not_used,
    )
    return (
        _without_inline_text(source, config.url_column) if layout.name == LISTS and columns.image else source
    )


def _without_inline_text(source: ParquetSource, column: str) -> ParquetSource:
    """Return the source without a text column if that holds no urls but images, which no output needs."""
    rows = sample_rows(source.folder, source.shards[:1], source.image_column, source.transport, _SAMPLED_ROWS)
    uris = [row.reference.uri for row in rows if row.reference.uri]
    if not uris or not all(map(is_inline_text, uris)):
        return source
    own = tuple(field for field in source.own_columns if field.name != column)
    return replace(source, layout=PARQUET if source.layout == URL_TABLE else source.layout, own_columns=own)


def _check_pages(config: Config, source: ParquetSource) -> None:
    """Refuse columns that Spark would have to read and cannot."""
    transport = source.transports(config.image_transport)[0]
    files = ((shard.path, shard.odd_pages) for shard in source.shards)
    image = source.image_column if transport == "bytes" else ""
    check_readable(files, replace(source, transport=transport).read_by_spark, image)


def _check_some(shards: Sequence[Shard], bad: Sequence[BadShard]) -> None:
    if bad and not shards:
        raise StorageError(f"none of {len(bad):,} shards can be read; the first: {bad[0].reason}")
