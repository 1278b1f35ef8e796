"""The model's own transformers processor on one image: the reference, and the way where no fast path is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from spark_embed.errors import ImageError, one_line
from spark_embed.models.backoff import is_out_of_memory
from spark_embed.models.vision.checkpoint import LIBRARY_ERRORS
from spark_embed.models.vision.preprocess import Pixels

# transformers 4 guesses where the channels are, wrongly for an image 1 or 3 pixels high.
_CHANNELS_LAST = {"input_data_format": "channels_last"}

MAX_ASPECT_RATIO = 20
"""Up to this ratio of its edges transformers may resize an image: it resizes the whole before it crops, and
that takes gigabytes at 6000 x 2."""


def process_image(processor: Any, image: Image.Image | Pixels, *, is_timm: bool) -> dict[str, torch.Tensor]:
    """Return the model's inputs for one RGB image, a batch of one.

    Args:
        processor: of transformers.
        image: or its pixels, uint8 (height, width, 3), which take less memory on the way; not for timm's.
        is_timm: whether it is timm's.

    Raises:
        ImageError: the processor cannot have this image: `corrupt`, `out_of_memory`, or `too_many_pixels`
            where it would become too large on the way.
    """
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width) and not _gives_bounded_size(processor):
        raise ImageError(
            "too_many_pixels",
            f"{width} x {height}: this model's images are prepared by transformers, which "
            f"would enlarge one that is more than {MAX_ASPECT_RATIO} times as long as wide too far",
        )
    options = {} if is_timm else _CHANNELS_LAST
    try:
        return dict(processor(image, return_tensors="pt", **options))
    except LIBRARY_ERRORS as exc:
        if is_out_of_memory(exc):
            raise ImageError("out_of_memory", f"in {type(processor).__name__}") from exc
        detail = f"{type(processor).__name__}: {type(exc).__name__}: {one_line(exc)}"
        raise ImageError("corrupt", detail) from exc


def _gives_bounded_size(processor: Any) -> bool:
    """Say whether a processor resizes any image, however narrow, to about as many pixels."""
    size = dict(getattr(processor, "size", None) or {})
    return hasattr(processor, "max_num_patches") or bool(size.get("height") and size.get("width"))
