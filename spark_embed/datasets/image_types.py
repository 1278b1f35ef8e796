"""Which Arrow types hold images, bytes or text, and what helps where a type holds them in another way."""

from __future__ import annotations

import pyarrow as pa

from spark_embed.inference.fetch.rows import IMAGE_BYTES, IMAGE_PATH

_SPARK_IMAGE = {"origin", "height", "width", "nChannels", "mode", "data"}


def is_bytes(arrow_type: pa.DataType) -> bool:
    """Say whether a column of that type holds bytes, however Arrow lays them out."""
    plain = _without_dictionary(arrow_type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(plain) for is_kind in kinds) or is_fixed_size(arrow_type)


def is_fixed_size(arrow_type: pa.DataType) -> bool:
    """Say whether a column of that type holds as many bytes in each row: digests rather than images."""
    return bool(pa.types.is_fixed_size_binary(_without_dictionary(arrow_type)))


def is_text(arrow_type: pa.DataType) -> bool:
    """Say whether a column of that type holds text, however Arrow lays it out."""
    plain = _without_dictionary(arrow_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(plain) for is_kind in kinds)


def is_hugging_face(arrow_type: pa.DataType) -> bool:
    """Say whether a type is the one of Hugging Face's Image feature, and not any struct."""
    if not pa.types.is_struct(arrow_type) or {f.name for f in arrow_type} != {IMAGE_BYTES, IMAGE_PATH}:
        return False
    data, path = arrow_type.field(IMAGE_BYTES).type, arrow_type.field(IMAGE_PATH).type
    is_data = is_bytes(data) or pa.types.is_null(data)
    return bool(is_data and (is_text(path) or pa.types.is_null(path)))


def find_cure(arrow_type: pa.DataType) -> str | None:
    """Return how a column of that type may hold images that are not read, and what helps; else None."""
    if pa.types.is_struct(arrow_type) and {field.name for field in arrow_type} == _SPARK_IMAGE:
        return (
            "pixels as Spark's image source decodes them: write the files' bytes (format binaryFile) instead"
        )
    if pa.types.is_struct(arrow_type) and any(is_bytes(field.type) for field in arrow_type):
        return "bytes inside a struct: make them a column (df.select('struct.field'))"
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        value = arrow_type.value_type
        if is_hugging_face(value) or is_bytes(value):
            return "several images in a row: write a row for each (Spark's explode)"
        if pa.types.is_integer(value) and value.bit_width == 8:
            return "bytes as a list of numbers: write them as binary"
    return None


def _without_dictionary(arrow_type: pa.DataType) -> pa.DataType:
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
