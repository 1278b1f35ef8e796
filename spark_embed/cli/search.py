"""`spark-embed index` and `spark-embed search`: vectors -> an index, a picture or words -> what is near."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from spark_embed.cli.commands import Write
from spark_embed.cli.lazy_session import LazySession
from spark_embed.config import Config
from spark_embed.errors import ConfigError, RowError, StorageError
from spark_embed.flags import Parser
from spark_embed.storage import folder_path, open_binary

if TYPE_CHECKING:
    from spark_embed.search.index import Hit, Index
    from spark_embed.search.manifest import Manifest

MODEL_FLAGS = ("model_directory", "revision", "trust_remote_code")
_SHOWN_CHARS = 60


def run_index(argv: Sequence[str], write: Write) -> None:
    """Bring an index up to date with an output folder.

    Raises:
        SparkEmbedError: as `build_index`.
    """
    parser = Parser(
        prog="spark-embed index",
        description="Index the vectors of an output folder, to be searched. The same command goes on where "
        "it was interrupted, and adds what is new. It measures how many of the true neighbours it finds.",
        epilog="exit codes: 0 done; 2 nothing to index, or a wrong flag; 4 a file cannot be read or written; "
        "6 another build is at work there, or the folder is not ours",
        allow_abbrev=False,
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="the --output_dir of a run")
    parser.add_argument("index_dir", metavar="INDEX_DIR", nargs="?", help="of the index [OUTPUT_DIR/index]")
    parser.add_argument("--column", metavar="COLUMN", help="of the vectors [the first: embedding]")
    parser.add_argument(
        "--factory", metavar="FAISS", help="a kind of index, such as IVF4096,SQ8 [what suits]"
    )
    parser.add_argument("--max_memory", metavar="SIZE", help="what it may take of it [half the machine's]")
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    given = parser.parse_args(argv)
    import_search()
    from spark_embed.search.build import BuildOptions, build_index

    options = BuildOptions(given.column, given.factory, _bytes(given.max_memory))
    folder = folder_path(given.output_dir, "OUTPUT_DIR")
    with LazySession(Config(input_dir=folder, output_dir=folder)) as session:
        manifest = build_index(given.output_dir, given.index_dir, options, session)
    write((json.dumps(_summary(manifest)) if given.json else _text(manifest)) + "\n")


def run_search(argv: Sequence[str], write: Write) -> None:
    """Print what is nearest to a picture, words or a row.

    Raises:
        SparkEmbedError: as `Index.open`, `Index.search` and `QueryModel`.
    """
    given = _search_parser().parse_args(argv)
    if given.k < 1:
        raise ConfigError(f"-k {given.k}: must be 1 or more")
    asked = [name for name in ("image", "text", "id") if getattr(given, name) is not None]
    if not asked:
        raise ConfigError("give what to look for: --image FILE, --text WORDS or --id IMAGE_ID")
    if given.id is not None and (len(asked) > 1 or given.minus is not None):
        raise ConfigError("--id: goes with neither --image nor --text nor --minus")
    import_search()
    from spark_embed.search.index import Index

    index = Index.open(given.index_dir)
    columns = given.columns.split(",") if given.columns else None
    if given.id is not None:
        number = index.rows.number_of(given.id)
        hits = index.search(index.vector_of(number), given.k + 1, given.where, columns=columns)
        own = index.hit(number, [])
        hits = [hit for hit in hits if (hit.shard, hit.shard_row) != (own.shard, own.shard_row)][: given.k]
    else:
        hits = index.search(_query(index, given), given.k, given.where, columns=columns)
    for hit in hits:
        write((json.dumps(hit.to_dict(), default=str) if given.json else _line(hit)) + "\n")
    if not hits and not given.json:
        write("nothing found: no row with a vector meets the condition\n")


def import_search() -> None:
    """Look whether what searching needs is installed.

    Raises:
        ConfigError: it is not.
    """
    # It says at INFO which variants of itself it cannot load.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    for package in ("faiss", "duckdb"):
        try:
            importlib.import_module(package)
        except ImportError as exc:
            raise ConfigError(f"search needs {package}: pip install 'spark-embed[search]'") from exc


def add_model_flags(parser: Parser) -> None:
    """Add the flags that say where the model of a run is now: `MODEL_FLAGS`."""
    parser.add_argument("--model_directory", metavar="FOLDER", help="where the run's model is now")
    parser.add_argument("--revision", metavar="REVISION", help="of a hub id")
    parser.add_argument("--trust_remote_code", action="store_true", help="let a model folder run its code")


def _search_parser() -> Parser:
    parser = Parser(
        prog="spark-embed search",
        description="Find the pictures that are nearest to a picture, to words or to a row of the data set.",
        epilog="exit codes: 0 searched; 2 no index, or a wrong flag; 3 the model cannot be loaded, or is "
        "another one; 4 a file cannot be read; 6 the index is of other vectors",
        allow_abbrev=False,
    )
    parser.add_argument("index_dir", metavar="INDEX_DIR", help="of 'spark-embed index', or its OUTPUT_DIR")
    parser.add_argument("--image", metavar="FILE", help="a picture, here or in S3")
    parser.add_argument("--text", metavar="WORDS", help="words, for a model with a text tower (CLIP, SigLIP)")
    parser.add_argument("--minus", metavar="WORDS", help="words to lead away from, beside one of the two")
    parser.add_argument("--id", metavar="IMAGE_ID", help="a row: its image_id, or shard#row")
    parser.add_argument("-k", type=int, default=20, help="how many [20]")
    says = "a condition on the data set's columns, in SQL: \"width > 512 and caption like '%%dog%%'\""
    parser.add_argument("--where", metavar="SQL", help=says)
    parser.add_argument("--columns", metavar="NAMES", help="of the data set, to be shown [all]")
    parser.add_argument("--json", action="store_true", help="a JSON object for each hit")
    add_model_flags(parser)
    return parser


def model_options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what those flags say, as `QueryModel` takes it."""
    return {name: getattr(given, name) for name in MODEL_FLAGS if getattr(given, name)}


def _query(index: Index, given: argparse.Namespace) -> Any:
    """Return the vector of what is looked for: of a picture and words the sum of directions."""
    import numpy as np

    from spark_embed.search.query import MAX_IMAGE_BYTES, QueryModel
    from spark_embed.search.vectors import unit_vectors

    image = None if given.image is None else _read(given.image, MAX_IMAGE_BYTES)
    with_text = given.text is not None or given.minus is not None
    model = QueryModel(index.data.root, index.manifest.column, model_options(given), with_text=with_text)
    try:
        vectors = [] if image is None else [model.of_image(image)]
        vectors += [] if given.text is None else [model.of_text(given.text)]
        away = [] if given.minus is None else [model.of_text(given.minus)]
    except RowError as exc:
        raise ConfigError(f"{given.image or given.text}: {exc}") from exc
    directions = unit_vectors(np.stack([*vectors, *away]))[1]
    return directions[: len(vectors)].sum(axis=0) - directions[len(vectors) :].sum(axis=0)


def _read(path: str, max_bytes: int) -> bytes:
    try:
        with open_binary(path) as file:
            data: bytes = file.read(max_bytes + 1)
    except FileNotFoundError as exc:
        raise ConfigError(f"--image {path}: there is no such file") from exc
    except OSError as exc:
        raise StorageError(f"--image {path}: cannot be read: {exc}") from exc
    if len(data) > max_bytes:
        raise ConfigError(f"--image {path}: is larger than {max_bytes >> 20} MB")
    return data


def _bytes(size: str | None) -> int | None:
    try:
        return None if size is None else int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        raise ConfigError(f"--max_memory {size}: must be a size, such as 8GB") from None


def _summary(manifest: Manifest) -> dict[str, Any]:
    shown = manifest.model_dump(exclude={"fingerprint", "parts"})
    return {**shown, "recall": manifest.recall, "n_parts": len(manifest.parts)}


def _text(manifest: Manifest) -> str:
    best = next(one for one in manifest.measured if one.effort == manifest.effort)
    at = f" at {manifest.effort_name} {manifest.effort}" if manifest.effort_name != "-" else ""
    without = manifest.n_rows - manifest.n_vectors
    recall = (
        "no vector has another to find"
        if best.recall is None
        else f"{best.recall:.3f} of the true 10 nearest found{at}, measured with {manifest.n_queries} "
        "vectors of the data set against all others"
    )
    lines = [
        f"index   {manifest.factory}, {manifest.n_vectors:,} vectors of {manifest.dim} in {manifest.column}, "
        f"{len(manifest.parts)} parts" + (f"; {without:,} rows have none" if without else ""),
        f"recall  {recall}",
        f"time    {best.p50_ms:.2f} ms for a query, {best.p95_ms:.2f} ms for one in twenty, on one thread",
    ]
    return "\n".join(lines)


def _line(hit: Hit) -> str:
    shown = [f"{name}={_short(value)}" for name, value in hit.columns.items() if value is not None]
    return f"{hit.score:6.3f}  {hit.image_id}  {hit.shard}#{hit.shard_row}  {'  '.join(shown)}".rstrip()


def _short(value: object) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"
