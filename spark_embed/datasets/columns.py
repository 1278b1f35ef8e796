"""Which columns of parquet shards hold the images, make image_id, and go to the output; reads no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark.sql import types as T

from spark_embed.config import Config
from spark_embed.datasets.common_type import column_type
from spark_embed.errors import ConfigError
from spark_embed.inference.fetch.rows import IMAGE_BYTES, IMAGE_PATH
from spark_embed.schema import IMAGE, IMAGE_ID, INDEX_COLUMNS, METADATA, RESERVED

IMAGE_NAMES = ("jpg", "jpeg", "png", "webp", "image")
"""Binary columns taken for the image without --image_column: img2dataset names it by its encode format."""

PARQUET, HUGGING_FACE, URL_TABLE = "parquet", "huggingface", "url_table"
_ID_NAMES = ("key", "id")


@dataclass(frozen=True)
class Columns:
    """What the columns of a data set are for.

    Attributes:
        layout: `PARQUET` (image bytes inline), `HUGGING_FACE` (a struct of bytes and path) or `URL_TABLE`.
        image: the column with the bytes, the structs or the urls.
        id: the column that image_id is made from, as of the type that all shards have; None: shard#row.
        own: the columns that go to the output.
    """

    layout: str
    image: str
    id: T.StructField | None
    own: tuple[T.StructField, ...]


class _Known:
    """The columns that there are: in the files, and in the names of their folders (always text)."""

    def __init__(self, schemas: Mapping[pa.Schema, str], hive: Sequence[str]) -> None:
        self.schemas = schemas
        self.files = list(dict.fromkeys(name for schema in schemas for name in schema.names))
        self.hive = hive
        self.names = list(dict.fromkeys([*self.files, *hive]))

    def field(self, name: str, cure: str) -> T.StructField:
        """Return the column with its one type; raises ConfigError where that is not to be had."""
        if name in self.hive and name in self.files:
            raise ConfigError(f"column {name!r} is in the files and in their folders' names; {cure}")
        in_path = name in self.hive
        return T.StructField(name, T.StringType() if in_path else column_type(name, self.schemas, cure))

    def are(self, holds: Callable[[pa.DataType], bool]) -> list[str]:
        """Return the files' columns whose types all satisfy `holds`; null in a shard: no answer."""
        types: dict[str, set[bool]] = {name: set() for name in self.files}
        for schema in self.schemas:
            for field in schema:
                if not pa.types.is_null(field.type):
                    types[field.name].add(holds(field.type))
        return [name for name, answers in types.items() if answers == {True}]


def find_columns(
    config: Config, input_dir: str, schemas: Mapping[pa.Schema, str], hive: Sequence[str]
) -> Columns:
    """Find what the columns are for.

    Args:
        config: names the columns where there is a choice.
        input_dir: for the text of an error.
        schemas: the path of one shard for each schema that the files have.
        hive: columns that the folders add (cat=007/).

    Raises:
        ConfigError: nothing to embed, or columns that cannot be used, with the flag that helps.
    """
    known = _Known(schemas, hive)
    layout, image = _find_image(config, input_dir, known)
    names = [name for name in _own_names(config, known.names) if layout == URL_TABLE or name != image]
    columns = _find_others(config, known, layout, image, names)
    for flag, name in (("--image_column", image), ("--id_column", columns.id.name if columns.id else "")):
        if name.lower() == METADATA:
            raise ConfigError(f"{flag} {name!r}: Spark has a hidden column of that name; rename the column")
    known.field(image, "rename the folders, or choose another --image_column")
    return columns


def find_index_columns(config: Config, schemas: Mapping[pa.Schema, str]) -> Columns:
    """Find what the data set's own columns in an index are for; as `find_columns`."""
    if config.image_column:
        raise ConfigError(
            f"--image_column {config.image_column!r}: the data set's images are in no column; leave it out"
        )
    own = {
        pa.schema([field for field in schema if field.name not in INDEX_COLUMNS]): path
        for schema, path in schemas.items()
    }
    known = _Known(own, ())
    # An image folder's own index names its images; --id_column may name them otherwise.
    names = [name for name in _own_names(config, known.names) if name != IMAGE_ID]
    columns = _find_others(config, known, "", IMAGE, names)
    if columns.id is None and IMAGE_ID in known.names:
        return replace(columns, id=T.StructField(IMAGE_ID, T.StringType()))
    return columns


def _find_others(config: Config, known: _Known, layout: str, image: str, names: list[str]) -> Columns:
    """Find the column of the ids, and check the own columns of these names."""
    id_field = _find_id(config, known, image, names)
    if id_field and id_field.name == IMAGE_ID:
        names = [name for name in names if name != IMAGE_ID]  # it is image_id already
    _check_reserved(names)
    _check_case(names)
    own = tuple(known.field(name, f"leave it out with --drop_columns {name}") for name in names)
    return Columns(layout, image, id_field, own)


def _find_image(config: Config, input_dir: str, known: _Known) -> tuple[str, str]:
    """Return the layout and the column with the images or with their urls."""
    binary = known.are(is_bytes)
    structs = known.are(is_hugging_face)
    if wanted := config.image_column:
        if wanted not in known.files:
            raise ConfigError(
                f"--image_column {wanted!r}: no such column; there are {', '.join(known.files)}"
            )
        if wanted not in binary + structs:
            listed = ", ".join(binary + structs) or "none"
            raise ConfigError(f"--image_column {wanted!r}: not binary; binary columns: {listed}")
        return HUGGING_FACE if wanted in structs else PARQUET, wanted
    if found := next((name for name in IMAGE_NAMES if name in binary), None):
        return PARQUET, found
    if len(structs) == 1:
        return HUGGING_FACE, structs[0]
    if binary or structs:
        raise ConfigError(
            f"--input_dir {input_dir}: which column holds the images? Say --image_column, one of "
            f"{', '.join(binary + structs)} (found without it: {', '.join(IMAGE_NAMES)})"
        )
    if config.url_column in known.are(is_text):
        return URL_TABLE, config.url_column
    raise ConfigError(
        f"--input_dir {input_dir}: no image column (binary {', '.join(IMAGE_NAMES)}, or a text "
        f"{config.url_column} with urls or paths, see --url_column); the shards have {', '.join(known.files)}"
    )


def is_hugging_face(arrow_type: pa.DataType) -> bool:
    """Say whether a type is the one of Hugging Face's Image feature, and not any struct."""
    if not pa.types.is_struct(arrow_type) or {f.name for f in arrow_type} != {IMAGE_BYTES, IMAGE_PATH}:
        return False
    data, path = arrow_type.field(IMAGE_BYTES).type, arrow_type.field(IMAGE_PATH).type
    is_data = is_bytes(data) or pa.types.is_null(data)
    return bool(is_data and (is_text(path) or pa.types.is_null(path)))


def is_bytes(arrow_type: pa.DataType) -> bool:
    """Say whether a column of that type holds bytes, however Arrow lays them out."""
    plain = _without_dictionary(arrow_type)
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )
    return any(is_kind(plain) for is_kind in kinds)


def is_text(arrow_type: pa.DataType) -> bool:
    """Say whether a column of that type holds text, however Arrow lays it out."""
    plain = _without_dictionary(arrow_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(plain) for is_kind in kinds)


def _without_dictionary(arrow_type: pa.DataType) -> pa.DataType:
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def _find_id(config: Config, known: _Known, image: str, own: Sequence[str]) -> T.StructField | None:
    wanted = config.id_column
    if wanted is not None:
        if wanted not in known.names:
            raise ConfigError(f"--id_column {wanted!r}: no such column; there are {', '.join(known.names)}")
        return known.field(wanted, "choose another --id_column")
    for name in _ID_NAMES:
        if name not in known.names or name == image:
            continue
        try:
            return known.field(name, f"leave it out with --drop_columns {name}")
        except ConfigError:
            if name in own:
                raise
    return None  # what was dropped because it has no one type names nothing either


def _own_names(config: Config, names: Sequence[str]) -> list[str]:
    for flag, chosen in (("--columns", config.columns or ()), ("--drop_columns", config.drop_columns)):
        if missing := [name for name in chosen if name not in names]:
            raise ConfigError(f"{flag} {missing[0]!r}: no such column; there are {', '.join(names)}")
    wanted = dict.fromkeys(names if config.columns is None else config.columns)
    return [name for name in wanted if name not in config.drop_columns]


def _check_reserved(names: Iterable[str]) -> None:
    for name in names:
        if name.lower() in RESERVED:
            also = f" (or use it as the id: --id_column {name})" if name.lower() == IMAGE_ID else ""
            raise ConfigError(
                f"the data set has a column {name!r}, which the output needs for itself: leave it out with "
                f"--drop_columns {name}{also}"
            )


def _check_case(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ConfigError(
                f"columns {other!r} and {name!r} differ only in case, which readers of the output would not "
                f"tell apart: leave one out with --drop_columns {name}"
            )
