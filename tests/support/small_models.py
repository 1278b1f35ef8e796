"""Small random networks in Hugging Face layout, each with the preprocessing of a well-known checkpoint."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from spark_embed.models import Inputs, Recipe

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
BILINEAR, BICUBIC = 2, 3

TRANSFORMER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class SmallModel:
    """One family.

    Attributes:
        network: makes the network, with random weights.
        vector: plain transformers' image features for that network's inputs.
        processor: preprocessor_config.json as the checkpoint named in the comment stores it.
    """

    network: Callable[[], torch.nn.Module]
    vector: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]
    processor: dict[str, Any]


def image_features(network, inputs):
    features = network.get_image_features(**inputs)  # a tensor up to transformers 4, an object from 5 on
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def pooled(network, inputs):
    return network(**inputs).pooler_output.flatten(1)


def cls_token(network, inputs):
    return network(**inputs).last_hidden_state[:, 0]


def clip(projection_dim: int = 24) -> torch.nn.Module:
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**TRANSFORMER, "vocab_size": 100, "eos_token_id": 99},
            vision_config={**TRANSFORMER, "patch_size": 32, "image_size": 224},
            projection_dim=projection_dim,
        )
    )


def siglip(kind: str = "Siglip", **vision) -> torch.nn.Module:
    config = getattr(transformers, f"{kind}Config")(
        text_config={**TRANSFORMER, "vocab_size": 100},
        vision_config={**TRANSFORMER, **vision},
    )
    return getattr(transformers, f"{kind}Model")(config)


def auto(kind: str, head: str = "Model", **config) -> torch.nn.Module:
    return getattr(transformers, f"{kind}{head}")(getattr(transformers, f"{kind}Config")(**config))


def steps(kind: str, resample: int, **more) -> dict[str, Any]:
    """Return a preprocessor_config.json as it is written since 2023."""
    always = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    return {"image_processor_type": f"{kind}ImageProcessor", **always, "resample": resample, **more}


def old_steps(kind: str, resample: int, **more) -> dict[str, Any]:
    """Return one as the older checkpoints have it: what is not said is the class's default."""
    always = {"do_resize": True, "do_normalize": True}
    return {"feature_extractor_type": f"{kind}FeatureExtractor", **always, "resample": resample, **more}


def square(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
VIT = {**TRANSFORMER, "patch_size": 32, "image_size": 224}
DINOV2 = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 518}
CROP_224 = {"do_center_crop": True, "crop_size": square(224)}

MODELS: dict[str, SmallModel] = {
    # openai/clip-vit-base-patch32
    "clip": SmallModel(
        clip,
        image_features,
        old_steps("CLIP", BICUBIC, size=224, do_center_crop=True, crop_size=224, **OPENAI),
    ),
    # CLIP with an odd number of pixels to crop away
    "clip-odd-crop": SmallModel(
        clip, image_features, steps("CLIP", BICUBIC, size={"shortest_edge": 235}, **CROP_224, **OPENAI)
    ),
    # google/siglip-base-patch16-224
    "siglip": SmallModel(
        lambda: siglip(patch_size=32, image_size=224),
        image_features,
        steps("Siglip", BICUBIC, size=square(224), **HALF),
    ),
    # google/siglip2-base-patch16-256: of model_type siglip, bilinear
    "siglip2-fixed": SmallModel(
        lambda: siglip(patch_size=32, image_size=256),
        image_features,
        steps("Siglip", BILINEAR, size=square(256), do_convert_rgb=None, **HALF),
    ),
    # google/siglip2-base-patch16-naflex: keeps the aspect ratio, so no image has the size of another
    "siglip2-naflex": SmallModel(
        lambda: siglip("Siglip2", patch_size=16, num_patches=256),
        image_features,
        steps("Siglip2", BILINEAR, patch_size=16, max_num_patches=256, **HALF),
    ),
    # facebook/dinov2-base
    "dinov2": SmallModel(
        lambda: auto("Dinov2", **DINOV2),
        cls_token,
        steps("Bit", BICUBIC, size={"shortest_edge": 256}, **CROP_224, **IMAGENET),
    ),
    # google/vit-base-patch16-224: a classifier, without a pooler
    "vit": SmallModel(
        lambda: auto("ViT", "ForImageClassification", **VIT),
        lambda network, inputs: cls_token(network.vit, inputs),
        steps("ViT", BILINEAR, size=square(224), **HALF),
    ),
    # facebook/convnext-tiny-224: to 224 / crop_pct, then a crop
    "convnext-224": SmallModel(
        lambda: auto("ConvNext", "ForImageClassification", **STAGES),
        lambda network, inputs: pooled(network.convnext, inputs),
        old_steps("ConvNext", BICUBIC, size=224, crop_pct=0.875, **IMAGENET),
    ),
    # facebook/convnext-base-384: no crop from 384 on, the image is stretched
    "convnext-384": SmallModel(
        lambda: auto("ConvNext", **STAGES),
        pooled,
        steps("ConvNext", BICUBIC, size={"shortest_edge": 384}, crop_pct=0.875, **IMAGENET),
    ),
    # microsoft/resnet-50
    "resnet": SmallModel(
        lambda: auto("ResNet", "ForImageClassification", embedding_size=8, **STAGES),
        lambda network, inputs: pooled(network.resnet, inputs),
        old_steps("ConvNext", BICUBIC, size=224, crop_pct=0.875, **IMAGENET),
    ),
    # microsoft/swin-tiny-patch4-window7-224
    "swin": SmallModel(
        lambda: auto("Swin", "ForImageClassification", **SWIN),
        lambda network, inputs: pooled(network.swin, inputs),
        old_steps("ViT", BICUBIC, size=224, **IMAGENET),
    ),
}

# timm keeps its preprocessing in config.json; these are the crop modes of nearly all its checkpoints.
TIMM_MODELS: dict[str, dict[str, Any]] = {
    "test_resnet": {"interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"},
    "test_vit": {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"},
    # position indices that no checkpoint holds
    "swin_tiny_patch4_window7_224": {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"},
}
TIMM_ARGUMENTS = {"swin_tiny_patch4_window7_224": {"depths": [2, 1], "embed_dim": 8, "num_heads": [1, 2]}}

NAMES = (*MODELS, *TIMM_MODELS)

# Networks with a head: transformers' name, config.json, and whose preprocessing of `MODELS`.
CLASSIFIERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("ViT", VIT, "vit"),
    "convnext": ("ConvNext", STAGES, "convnext-224"),
    "resnet": ("ResNet", {"embedding_size": 8, **STAGES}, "resnet"),
    "swin": ("Swin", SWIN, "swin"),
    "swinv2": ("Swinv2", SWIN, "swin"),
    "dinov2": ("Dinov2", {**DINOV2, "patch_size": 14}, "dinov2"),
    "siglip": ("Siglip", {"vision_config": {**TRANSFORMER, "patch_size": 32, "image_size": 224}}, "siglip"),
}
LABELS = ("ant", "bee", "crab", "deer", "eel", "fox", "gnu")


@dataclass(frozen=True)
class Reference:
    """What plain transformers (or plain timm) does with the images and the network of a saved folder.

    Attributes:
        process: image -> model inputs, by the model's own processor.
        vector: model inputs -> vector, by the network that was saved, not one that was loaded.
    """

    process: Callable[[Image.Image], dict[str, torch.Tensor]]
    vector: Callable[[dict[str, torch.Tensor]], torch.Tensor]


def save_model(name: str, folder: Path) -> Reference:
    """Write a model of `NAMES` into a folder, its weights random but always the same."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    return _save_timm_model(name, folder) if name in TIMM_MODELS else _save_model(name, folder)


def _save_model(name: str, folder: Path) -> Reference:
    model = MODELS[name]
    network = model.network().eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(model.processor))
    pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **pil)

    def process(image):
        # Unless told, transformers 4 takes an image 3 pixels high for one with its channels first.
        return dict(processor(image, return_tensors="pt", input_data_format="channels_last"))

    return Reference(process, lambda inputs: model.vector(network, inputs))


def save_classifier(name: str, folder: Path, **config) -> torch.nn.Module:
    """Write one of `CLASSIFIERS`, or a timm network, with a head for `LABELS`; returns the network.

    The head's weights are large, so that images differ in their labels.
    """
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if name in TIMM_MODELS:
        return _save_timm_classifier(name, folder)
    kind, values, processor = CLASSIFIERS[name]
    labels = {"id2label": dict(enumerate(LABELS)), **config}
    network = auto(kind, "ForImageClassification", **values, **labels).eval()
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.normal_()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(MODELS[processor].processor))
    return network


def _save_timm_classifier(architecture: str, folder: Path) -> torch.nn.Module:
    arguments = TIMM_ARGUMENTS.get(architecture, {})
    network = timm.create_model(architecture, num_classes=len(LABELS), **arguments).eval()
    with torch.no_grad():
        for parameter in network.get_classifier().parameters():
            parameter.normal_()
    preprocessing = {
        "input_size": network.pretrained_cfg["input_size"],
        "mean": IMAGENET["image_mean"],
        "std": IMAGENET["image_std"],
        **TIMM_MODELS[architecture],
    }
    config = {"architecture": architecture, "num_classes": len(LABELS), "pretrained_cfg": preprocessing}
    (folder / "config.json").write_text(
        json.dumps({**config, "model_args": arguments, "label_names": LABELS})
    )
    save_file(network.state_dict(), folder / "model.safetensors")
    return network


def _save_timm_model(architecture: str, folder: Path) -> Reference:
    arguments = TIMM_ARGUMENTS.get(architecture, {})
    network = timm.create_model(architecture, num_classes=10, **arguments).eval()
    preprocessing = {
        "input_size": network.pretrained_cfg["input_size"],
        "mean": IMAGENET["image_mean"],
        "std": IMAGENET["image_std"],
        **TIMM_MODELS[architecture],
    }
    config = {"architecture": architecture, "num_classes": 10, "pretrained_cfg": preprocessing}
    (folder / "config.json").write_text(json.dumps({**config, "model_args": arguments}))
    save_file(network.state_dict(), folder / "model.safetensors")
    network.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(preprocessing))
    return Reference(
        lambda image: {"pixel_values": transform(image)[None]}, lambda inputs: network(inputs["pixel_values"])
    )


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Apply a change to the tensors of a saved folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    """Turn a saved folder into one from the time before safetensors."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def recipe(folder: Path | str, **options) -> Recipe:
    """Return the recipe of a folder, on the CPU and in float32 unless told."""
    return Recipe(str(folder), **{"device": "cpu", "dtype": "float32", **options})


def prepare_all(model, images: list[Image.Image]) -> list:
    """Return what the model prepares of each image."""
    return [model.prepare(Inputs(np.array(image))) for image in images]
