"""Ray Data: decode and predict in map_batches, one actor per core.

Usage: ray_embed.py INPUT_DIR OUTPUT_DIR MODEL_DIRECTORY
"""

import io
import os
import sys

import numpy as np
import ray
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

BATCH_SIZE = 32
N_CORES = len(os.sched_getaffinity(0))

_processors = {}


def prepare(batch, model_directory):
    """Decode with Pillow and run the model's own processor on the batch."""
    if model_directory not in _processors:
        torch.set_num_threads(1)
        _processors[model_directory] = AutoImageProcessor.from_pretrained(model_directory)
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch["jpg"]]
    pixels = _processors[model_directory](images, return_tensors="np")["pixel_values"]
    return {"key": batch["key"], "pixel_values": np.asarray(pixels)}


class Embed:
    """The model, loaded once per actor."""

    def __init__(self, model_directory):
        torch.set_num_threads(1)
        self.network = CLIPVisionModelWithProjection.from_pretrained(model_directory).eval()

    def __call__(self, batch):
        """Run one forward pass."""
        with torch.inference_mode():
            vectors = self.network(pixel_values=torch.from_numpy(batch["pixel_values"])).image_embeds
        return {"key": batch["key"], "embedding": vectors.numpy()}


def main():
    input_dir, output_dir, model_directory = sys.argv[1:]
    # With only as many CPUs as there are actors the reading would never get one.
    ray.init(num_cpus=2 * N_CORES, include_dashboard=False)
    table = ray.data.read_parquet(input_dir, columns=["key", "jpg"])
    table = table.map_batches(prepare, batch_size=BATCH_SIZE, fn_args=(model_directory,))
    table = table.map_batches(
        Embed,
        batch_size=BATCH_SIZE,
        fn_constructor_args=(model_directory,),
        compute=ray.data.ActorPoolStrategy(size=N_CORES),
    )
    table.write_parquet(output_dir)


if __name__ == "__main__":
    main()
