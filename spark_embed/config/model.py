"""The options of a model: those that choose it, which the service has, too, and those that make a vector."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from spark_embed.config.option import option, split_names

_SECRET = re.compile(r"[A-Za-z_]\w*=[\w/+=.@:-]+", re.ASCII)


def _check_secrets(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(_SECRET.fullmatch, names)):
        raise ValueError("must be VARIABLE=secret-name or VARIABLE=secret-name:key, comma-separated")
    return names


Secrets = Annotated[tuple[str, ...], BeforeValidator(split_names), AfterValidator(_check_secrets)]

BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]

Task = Literal["embed", "classify", "embed_text", "label", "predict", "auto"]


class ModelChoice(BaseModel):
    """The options that choose a model and what it makes of an image; the real-time service has them, too."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    task: Task = option(
        "embed",
        "Model",
        "embed: a vector of each image; classify: labels by the model's head, or those of --labels; "
        "embed_text: a vector of each text of --text_column, without images; label: what a remote API says; "
        "predict: scores of the rows of tables (docs/tables.md); "
        "auto: classify if config.json names a class ForImageClassification, else embed. A folder with code, "
        "and an API, say themselves what they give",
    )
    model_directory: str | None = option(
        None,
        "Model",
        "folder in Hugging Face layout or with code of its own (local or s3://), a hub id, or a .yaml file "
        "that describes a remote API; several, comma-separated, each give columns of their own; default: the "
        "embedded EfficientNet-Lite0",
        min_length=1,
    )
    revision: str | None = option(None, "Model", "branch, tag or commit of a hub id", min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "Model", "precision of the forward pass; auto: what the device is fast at, if parity holds"
    )
    normalize: bool = option(True, "Model", "scale every vector to length 1 (L2)")
    top_k: int = option(
        5, "Labels and texts", "classify: labels in top_labels and top_scores, the best first", ge=1
    )
    min_score: float = option(
        0,
        "Labels and texts",
        "classify: labels with a lower score are not in top_labels and top_scores",
        ge=0,
        le=1,
    )
    with_embedding: bool = option(
        False, "Labels and texts", "classify: the vector of each image as well, of the same forward pass"
    )
    allow_truncated: bool = option(
        False, "Images", "decode a truncated image as far as it goes, instead of making it an error row"
    )
    text_column: str | None = option(
        None,
        "Labels and texts",
        "embed: the column with captions, for text_embedding and clip_score by a CLIP or SigLIP; embed_text: "
        "the column with the texts",
        min_length=1,
    )
    labels: str | None = option(
        None,
        "Labels and texts",
        "classify: labels to choose from, by a CLIP or SigLIP: comma-separated, or a file (local or s3://) "
        "with one on each line",
        min_length=1,
    )
    prompt: str = option(
        "a photo of a {}",
        "Labels and texts",
        "classify: what the model is asked of each of --labels",
        pattern=r"\{\}",
    )
    threshold: float | None = option(
        None,
        "Tables",
        "predict: the score from which on a row is of the second of two classes; default: the model's own",
        ge=0,
        le=1,
    )
    allow_pickle_weights: bool = option(
        False, "Model", "accept weights that are not safetensors (loaded with weights_only=True)"
    )
    trust_remote_code: bool = option(
        False,
        "Model",
        "let the model bring its own code, Python or an exported program (.pt2); a local folder with "
        "model.py need not be told",
    )
    max_pixels: int = option(
        100_000_000, "Images", "an image with more pixels (by its header) is an error row", ge=1
    )


class ModelOptions(ModelChoice):
    """The options that decide what a vector is; `image_embedding` takes them by the same names."""

    require_gpu: bool = option(False, "Model", "stop at once where there is no GPU (CUDA or MPS)")
    batch_size: BatchSize = option(
        32, "Model", "images in one forward pass; auto: as many as make the model fast, tried out first"
    )
    compile: bool = option(
        False,
        "Model",
        "torch.compile the network: some 20 s in each worker, for the gain that the summary says",
    )
    secrets: Secrets = option(
        (),
        "AWS",
        "environment variables to fill from AWS Secrets Manager, by name, on the driver and in each worker: "
        "HF_TOKEN=secret-name, or HF_TOKEN=secret-name:key; comma-separated",
    )
    decode_timeout_s: float = option(
        30, "Images", "an image that takes longer to decode is an error row", gt=0
    )

    @property
    def model_directories(self) -> tuple[str, ...]:
        """What --model_directory names: nothing, or several; a path with commas that is there is one."""
        given = self.model_directory
        if given is None:
            return ()
        if "," not in given or os.path.exists(os.path.expanduser(given)):
            return (given,)
        return tuple(one.strip() for one in given.split(","))


def is_api_file(model_directory: str | None) -> bool:
    """Say whether a --model_directory is the file of a remote API."""
    return (model_directory or "").lower().endswith((".yaml", ".yml"))
