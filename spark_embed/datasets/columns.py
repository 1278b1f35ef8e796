"""Which columns of parquet shards hold the images, make image_id, and go to the output; reads no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark.sql import types as T

from spark_embed.config import Config
from spark_embed.datasets.common_type import column_type
from spark_embed.datasets.image_types import find_cure, is_bytes, is_fixed_size, is_hugging_face, is_text
from spark_embed.errors import ConfigError
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
        image: the column with the bytes, the structs or the urls; "" where the model takes no image.
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

    def check_alone(self, name: str, cure: str) -> None:
        """Raise ConfigError where a row may have several values of a column."""
        if name in self.hive and name in self.files:
            raise ConfigError(f"column {name!r} is in the files and in their folders' names; {cure}")
        for schema, path in self.schemas.items():
            if (number := len(schema.get_all_field_indices(name))) > 1:
                raise ConfigError(
                    f"{path} has {number} columns called {name!r}, and Spark reads none; {cure}"
                )

    def field(self, name: str, cure: str) -> T.StructField:
        """Return the column with its one type; raises ConfigError where that is not to be had."""
        self.check_alone(name, cure)
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
    config: Config,
    input_dir: str,
    schemas: Mapping[pa.Schema, str],
    hive: Sequence[str],
    *,
    takes_image: bool = True,
) -> Columns:
    """Find what the columns are for.

    Args:
        config: names the columns where there is a choice.
        input_dir: for the text of an error.
        schemas: the path of one shard for each schema that the files have.
        hive: columns that the folders add (cat=007/).
        takes_image: the model does; else there need be none, and those that there are go to no output.

    Raises:
        ConfigError: nothing to embed, or columns that cannot be used, with the flag that helps.
    """
    known = _Known(schemas, hive)
    if not takes_image:
        names = [name for name in _own_names(config, known.names) if name not in _images(config, known)]
        return _find_others(config, known, PARQUET, "", names)
    layout, image = _find_image(config, input_dir, known)
    names = [name for name in _own_names(config, known.names) if layout == URL_TABLE or name != image]
    columns = _find_others(config, known, layout, image, names)
    for flag, name in (("--image_column", image), ("--id_column", columns.id.name if columns.id else "")):
        if name.lower() == METADATA:
            raise ConfigError(f"{flag} {name!r}: Spark has a hidden column of that name; rename the column")
    known.check_alone(image, "rename one, or choose another --image_column")
    return columns


def _images(config: Config, known: _Known) -> list[str]:
    binary = known.are(is_bytes)
    named = [config.image_column] if config.image_column else []
    return [*named, *(name for name in IMAGE_NAMES if name in binary), *known.are(is_hugging_face)]


def find_index_columns(
    config: Config, schemas: Mapping[pa.Schema, str], *, takes_image: bool = True
) -> Columns:
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
    columns = _find_others(config, known, "", IMAGE if takes_image else "", names)
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
    """Return the layout and the column with the images or with their urls.

    A text may be an image, too, written out: that its values say.
    """
    binary, texts = known.are(is_bytes), known.are(is_text)
    structs = known.are(is_hugging_face)
    if wanted := config.image_column:
        if wanted not in known.files:
            raise ConfigError(
                f"--image_column {wanted!r}: no such column; there are {', '.join(known.files)}"
            )
        if wanted not in binary + structs + texts:
            listed = ", ".join(binary + structs) or "none"
            raise ConfigError(
                f"--image_column {wanted!r}: not binary{_cures(known, [wanted])}; binary columns: {listed}"
            )
        return HUGGING_FACE if wanted in structs else URL_TABLE if wanted in texts else PARQUET, wanted
    if found := next((name for name in IMAGE_NAMES if name in binary), None):
        return PARQUET, found
    if len(structs) == 1:
        return HUGGING_FACE, structs[0]
    if likely := [name for name in binary + structs if name not in known.are(is_fixed_size)]:
        raise ConfigError(
            f"--input_dir {input_dir}: which column holds the images? Say --image_column, one of "
            f"{', '.join(likely)} (found without it: {', '.join(IMAGE_NAMES)})"
        )
    if found := next((name for name in (config.url_column, *IMAGE_NAMES) if name in texts), None):
        return URL_TABLE, found
    raise ConfigError(
        f"--input_dir {input_dir}: no image column (binary {', '.join(IMAGE_NAMES)}, or a text "
        f"{config.url_column} with urls or paths, see --url_column); the shards have {', '.join(known.files)}"
        f"{_cures(known, known.files)}"
    )


def _cures(known: _Known, names: Sequence[str]) -> str:
    """Return what helps where columns may hold images in a way that is not read."""
    types = {field.name: field.type for schema in known.schemas for field in schema if field.name in names}
    cures = {name: cure for name, arrow_type in types.items() if (cure := find_cure(arrow_type))}
    return "".join(f"; {name!r} ({types[name]}) holds {cure}" for name, cure in cures.items())


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
