"""A transformers image processor -> what it does, as far as the fast path can do the same."""

from __future__ import annotations

import math
from typing import Any, Literal

from spark_embed.models.vision.preprocess import Preprocessing

# PIL.Image.Resampling values that torch's antialiased uint8 resize has too.
_RESAMPLES: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}

_CLASSES_KNOWN = ("CLIP", "ChineseCLIP", "Siglip", "ViT", "DeiT", "Bit", "ConvNext", "TimmWrapper")


def read_preprocessing(processor: Any) -> Preprocessing | None:
    """Read what a transformers image processor does; None where the fast path cannot do the same.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, ArithmeticError: its configuration makes no sense.
    """
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor")
    if name not in _CLASSES_KNOWN:
        return None
    if name == "TimmWrapper":
        return _from_timm(processor.data_config)
    if not processor.do_resize or processor.resample not in _RESAMPLES or getattr(processor, "do_pad", None):
        return None
    size = dict(processor.size)
    crop = None
    if name == "ConvNext":
        return _from_convnext(processor, size.get("shortest_edge"))
    if getattr(processor, "do_center_crop", None):
        crop_size = dict(processor.crop_size)
        crop = (crop_size["height"], crop_size["width"])
    if edge := size.get("shortest_edge"):
        if crop is None or max(crop) > edge or size.get("longest_edge"):
            return None  # without a crop every image has its own shape; a larger crop pads
        return _make(processor, "shortest_edge", (edge, edge), crop)
    if size.get("height") and size.get("width"):
        exact = (size["height"], size["width"])
        if crop and (crop[0] > exact[0] or crop[1] > exact[1]):
            return None
        return _make(processor, "exact", exact, crop or exact)
    return None


def _make(
    processor: Any,
    resize: Literal["shortest_edge", "exact"],
    size: tuple[int, int],
    crop: tuple[int, int],
) -> Preprocessing:
    mean, std = (
        (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    )
    return Preprocessing(
        resize=resize,
        size=size,
        crop=crop,
        crop_rounding="floor",
        resample=_RESAMPLES[int(processor.resample)],
        rescale_factor=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _from_convnext(processor: Any, edge: int | None) -> Preprocessing | None:
    """ConvNext's rule: below 384 resize to edge / crop_pct and crop; from 384 on stretch, no crop."""
    if not edge or getattr(processor, "do_center_crop", None):
        return None
    if edge >= 384:
        return _make(processor, "exact", (edge, edge), (edge, edge))
    resized = int(edge / processor.crop_pct)
    if resized < edge:
        return None  # a larger crop pads
    return _make(processor, "shortest_edge", (resized, resized), (edge, edge))


def _from_timm(data: dict[str, Any]) -> Preprocessing | None:
    """timm's evaluation transform for a resolved data config (timm.data.create_transform)."""
    channels, height, width = data["input_size"]
    if data["interpolation"] not in _RESAMPLES.values() or channels != 3 or height != width:
        return None
    if data["crop_mode"] not in ("center", "squash"):
        return None
    scaled = math.floor(height / data["crop_pct"])
    if scaled < height:
        return None  # a larger crop pads
    return Preprocessing(
        resize="shortest_edge" if data["crop_mode"] == "center" else "exact",
        size=(scaled, scaled),
        crop=(height, width),
        crop_rounding="round",
        resample=data["interpolation"],
        rescale_factor=1 / 255,
        mean=tuple(map(float, data["mean"])),
        std=tuple(map(float, data["std"])),
    )
