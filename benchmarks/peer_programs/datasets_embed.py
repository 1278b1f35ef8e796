"""Hugging Face datasets: map, one process per core.

Usage: datasets_embed.py INPUT_DIR OUTPUT_DIR MODEL_DIRECTORY
"""

import os
import sys
from pathlib import Path

import torch
from datasets import Image, disable_progress_bars, load_dataset
from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

BATCH_SIZE = 32

_models = {}


def load(model_directory):
    """Load the processor and the network, once per process."""
    if model_directory not in _models:
        torch.set_num_threads(1)
        network = CLIPVisionModelWithProjection.from_pretrained(model_directory).eval()
        _models[model_directory] = AutoImageProcessor.from_pretrained(model_directory), network
    return _models[model_directory]


def embed(batch, model_directory):
    """Decode (the Image feature does), prepare and predict one batch."""
    processor, network = load(model_directory)
    images = [image.convert("RGB") for image in batch["jpg"]]
    with torch.inference_mode():
        vectors = network(**processor(images, return_tensors="pt")).image_embeds
    return {"embedding": vectors.numpy()}


def main():
    input_dir, output_dir, model_directory = sys.argv[1:]
    disable_progress_bars()
    Path(output_dir).mkdir(parents=True)
    cache = f"{output_dir}/cache"  # nothing is reused from an earlier run
    table = load_dataset(
        "parquet", data_dir=input_dir, split="train", columns=["key", "jpg"], cache_dir=cache
    )
    table = table.cast_column("jpg", Image())
    table = table.map(
        embed,
        batched=True,
        batch_size=BATCH_SIZE,
        remove_columns=["jpg"],
        num_proc=len(os.sched_getaffinity(0)),
        fn_kwargs={"model_directory": model_directory},
    )
    table.to_parquet(f"{output_dir}/embeddings.parquet")


if __name__ == "__main__":
    main()
