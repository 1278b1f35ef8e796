"""Data sets that are opened without a run."""


def find_source(config):
    """Return the source of parquet shards that nobody has seen before, which takes no session."""
    from spark_embed.datasets import find_layout
    from spark_embed.datasets.catalogue import Catalogue
    from spark_embed.datasets.open import identified, shard_source

    catalogue = Catalogue()
    return shard_source(config, identified(None, find_layout(config), catalogue, verify=False), catalogue)


def table_of(spark, source, max_rows: int | None = None):
    """Return the references of all rows of a source, or of the first `max_rows`."""
    from spark_embed.datasets.units import units_of

    return source.table(spark, units_of(source.shards, max_rows))
