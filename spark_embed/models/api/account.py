"""What a run has asked of a provider and what that cost, for metadata.json; on the driver, asks nobody."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from spark_embed.models import Recipe
from spark_embed.models.api.file import ApiFile
from spark_embed.models.api.lines import READ_THREADS, list_files, read_lines
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


class Kept(NamedTuple):
    """What the files of a folder say of a run.

    Attributes:
        n_sent: requests, all attempts.
        n_again: of them those that may have been paid twice: nothing says that the attempt before failed.
        n_spoiled: of them those that brought what is no answer, and were followed by another attempt.
        usage: of all answers.
        models: answers by what they say has answered.
    """

    n_sent: int
    n_again: int
    n_spoiled: int
    n_answers: int
    usage: dict[str, float]
    models: dict[str, int]


def read_kept(folder: str) -> Kept:
    """Read all files of a folder; on the driver.

    Raises:
        StorageError: one cannot be read.
    """
    sent, unpaid, models = Counter[bytes](), Counter[bytes](), Counter[str]()
    usage = Counter[str]()
    n_spoiled, lock = 0, threading.Lock()

    def take_in(path: str) -> None:
        nonlocal n_spoiled
        for _, _, values in read_lines(path, 0):
            with lock:
                for name, counter in (("sent", sent), ("unpaid", unpaid)):
                    if key := values.get(name):
                        counter[bytes.fromhex(key)] += 1
                n_spoiled += "spoiled" in values
                if "key" in values:
                    usage.update(values["usage"])
                    models[_plain(values["model"])] += 1

    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(take_in, [path for path, _ in list_files(folder)]))
    n_again = sum(max(0, number - unpaid[key] - 1) for key, number in sent.items())
    return Kept(sent.total(), n_again, n_spoiled, models.total(), dict(usage), dict(models))


def _plain(name: str | None) -> str:
    """Return a model's name as it says it; half a surrogate pair is in no name, and in no file."""
    try:
        (name or "").encode()
    except UnicodeEncodeError:
        name = None
    return name or "unknown"
