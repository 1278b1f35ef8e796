"""What the options ask for, as a worker takes it: the model's recipe, and how it is fed; knows no Spark."""

from __future__ import annotations

from spark_embed.config import ModelOptions
from spark_embed.inference.feed import DEFAULT_BATCH_SIZE, FeedOptions
from spark_embed.inference.fetch.references import FetchPolicy
from spark_embed.models import Recipe
from spark_embed.models.registry import EMBEDDED_MODEL, find_kind, find_options, find_source


def make_recipe(options: ModelOptions) -> Recipe:
    """Return the recipe of the model that the options name, nothing resolved yet.

    A folder that is here is named by its absolute path: the workers' working folder is another. One in S3
    is looked at, if the driver may, for code of its own; each worker's machine fetches it.

    Raises:
        ConfigError: a URI in S3 that cannot be a folder's.
        ModelError: a folder with code that may not run.
    """
    kind = find_kind(options)
    return Recipe(
        source=",".join(map(find_source, options.model_directories)) or EMBEDDED_MODEL,
        revision=options.revision,
        dtype=options.dtype,
        device="gpu" if options.require_gpu else "auto",
        normalize=options.normalize,
        allow_pickle_weights=options.allow_pickle_weights,
        trust_remote_code=options.trust_remote_code,
        compile_rows=_batch_size(options) if options.compile else None,
        kind=kind,
        options=find_options(kind, options),
        secrets=options.secrets,
    )


def make_feed_options(options: ModelOptions, fetch: FetchPolicy | None = None) -> FeedOptions:
    """Return how a task is fed."""
    return FeedOptions(
        batch_size=_batch_size(options),
        max_pixels=options.max_pixels,
        decode_timeout_s=options.decode_timeout_s,
        allow_truncated=options.allow_truncated,
        fetch=fetch or FetchPolicy(),
    )


def _batch_size(options: ModelOptions) -> int:
    """Return the batch size; for "auto" the default, until preflight has found a better one."""
    return DEFAULT_BATCH_SIZE if options.batch_size == "auto" else options.batch_size
