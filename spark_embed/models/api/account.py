"""What a run has asked of a provider and what that cost, for metadata.json; on the driver, asks nobody."""

from __future__ import annotations

from typing import Any

from spark_embed.models import Recipe
from spark_embed.models.api.answers import read_kept
from spark_embed.models.api.file import ApiFile
from spark_embed.models.api.providers import cost_usd


def describe_usage(recipe: Recipe) -> dict[str, Any]:
    """Return the account of all attempts since the last run over the same output that came to its end.

    Raises:
        StorageError: what is kept cannot be read.
    """
    api = ApiFile.model_validate_json(recipe.option("api"))
    kept = read_kept(recipe.site.folder or "")
    return {
        "requests": kept.n_sent,
        "requests_maybe_paid_twice": kept.n_again,
        "answers": kept.n_answers,
        **{name: round(number) for name, number in kept.usage.items()},
        "cost_usd": round(cost_usd(api, kept.usage, kept.n_answers + kept.n_spoiled), 4),
        "answered_by": kept.models,
    }
