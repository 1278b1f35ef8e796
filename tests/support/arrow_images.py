"""Images as Arrow brings them to the one Python node, and what the node makes of them, unpacked."""

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_type

from spark_embed.inference import arrow, udf
from spark_embed.spark.types import IMAGE_TYPE


def references(images) -> pa.StructArray:
    """The references of rows that hold these bytes."""
    return pa.array([{"bytes": data} for data in images], to_arrow_type(IMAGE_TYPE))


def embed_arrays(arrays, recipe, options):
    """The results of arrays of references, vectors as lists."""
    made = udf.embed_arrays(arrays, recipe, options)
    return (arrow.unpack_results(array, recipe.gives) for array in made)
