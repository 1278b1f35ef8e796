"""CLIP image embeddings as a model folder: a folder with code (docs/models.md) at its smallest.

Before load(), spark_embed sets `folder`, `config` (config.json), `weights` (the folder that config.json's
"weights" led to), `device` and `dtype`.
"""

import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel


class ModelImpl:
    """One loaded CLIP; each worker process has one."""

    def load(self) -> None:
        """Load network and preprocessing from `weights`, here and nowhere else."""
        self.processor = CLIPImageProcessor.from_pretrained(self.weights)
        network = CLIPModel.from_pretrained(self.weights)
        self.network = network.to(self.device, getattr(torch, self.dtype)).eval()

    def warmup(self) -> None:
        """Run a whole batch: on a GPU the first one makes kernels and buffers."""
        self.encode([{"image": Image.new("RGB", (224, 224))}] * self.batch_size())

    def batch_size(self) -> int:
        """Return how many images `encode` takes at most."""
        return self.config["batch_size"]

    def batch_wait_s(self) -> float:
        """Return how long a service waits for a batch to fill; a batch job does not."""
        return self.config["batch_wait_s"]

    @torch.inference_mode()
    def encode(self, batch: list[dict]) -> list:
        """Return a vector for each row; its "image" is a PIL image in RGB, of any size."""
        inputs = self.processor([row["image"] for row in batch], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device, self.network.dtype)
        features = self.network.get_image_features(pixel_values=pixels)
        features = getattr(features, "pooler_output", features)  # from transformers 5 on, an object has it
        return list(features.float().cpu().numpy())
