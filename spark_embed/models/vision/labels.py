"""What config.json says of a classification head: its labels, and whether there is one; knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spark_embed.errors import ModelError
from spark_embed.models import Recipe
from spark_embed.models.vision.families import Family

_CLASSIFIER = "ForImageClassification"


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Say whether a config.json calls its network a classifier of images."""
    return any(_CLASSIFIER in str(name) for name in _architectures(config))


def _architectures(config: Mapping[str, Any]) -> Sequence[Any]:
    names = config.get("architectures")
    return names if isinstance(names, list) else ()


def check_head(config: Mapping[str, Any], family: Family, recipe: Recipe) -> None:
    """Look at what config.json tells of a head, before any weights are read.

    Raises:
        ModelError: there is none, its labels are no list of names, or it gives what is wanted in no one pass.
    """
    where = f"--model_directory {recipe.source}: config.json"
    if _architectures(config) and not is_classifier(config) and not config.get("auto_map"):
        raise ModelError(f"{where}: {config['architectures'][0]} {NO_HEAD}")
    if config.get("num_classes") == 0:
        raise ModelError(f"{where}: num_classes 0: the network {NO_HEAD}")
    if config.get("problem_type") == "regression":
        raise ModelError(f"{where}: problem_type regression: its outputs are no scores of labels")
    if recipe.option("with_embedding") and not family.has_shared_body:
        raise ModelError(
            f"--with_embedding true: a head of {family.title} does not stand on the vector of --task embed, "
            "so no one pass gives both; classify and embed in two runs"
        )
    names = read_labels(config, recipe)
    if names is not None and config.get("num_classes") not in (None, len(names)):
        raise ModelError(f"{where}: {len(names)} label_names for num_classes {config['num_classes']}")


NO_HEAD = (
    "has no classification head; --task embed makes vectors of it, and --task classify wants a checkpoint "
    "that was trained to classify"
)


def read_labels(config: Mapping[str, Any], recipe: Recipe) -> tuple[str, ...] | None:
    """Return the labels that config.json names, in the order of the head's outputs; None where it names none.

    transformers' `id2label`; timm's `label_names`, which stand at the top or in `pretrained_cfg`.

    Raises:
        ModelError: they are no list of names.
    """
    inner = config.get("pretrained_cfg")
    places = [config, *([inner] if isinstance(inner, dict) else [])]
    for name in ("label_names", "id2label"):
        for place in places:
            if (labels := place.get(name)) is not None:
                return order_labels(labels, name, recipe)
    return None


def order_labels(labels: Any, name: str, recipe: Recipe) -> tuple[str, ...]:
    """Return labels in the order of their numbers, which are the keys of an object, or a list's places.

    Raises:
        ModelError: the numbers are not 0, 1, 2 and so on, or a label is no name.
    """
    where = f"--model_directory {recipe.source}: config.json: {name}"
    try:
        numbered = (
            {int(key): label for key, label in labels.items()}
            if isinstance(labels, Mapping)
            else dict(enumerate(labels))
        )
    except (TypeError, ValueError) as exc:
        raise ModelError(f"{where} is neither a list of labels nor an object of them by number") from exc
    for number in range(len(labels)):
        if not isinstance(numbered.get(number), str | int):
            raise ModelError(f"{where} names no label {number}, of {len(labels):,}")
    return tuple(str(numbered[number]) for number in range(len(labels)))
