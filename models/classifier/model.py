"""An image classifier of transformers as a model folder; its labels are those of the network's own config.

Before load(), spark_embed sets `folder`, `config` (config.json), `weights` (the folder that config.json's
"weights" led to), `device` and `dtype`.
"""

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification


class ModelImpl:
    """One loaded classifier; each worker process has one."""

    def load(self) -> None:
        """Load network and preprocessing from `weights`, here and nowhere else."""
        self.processor = AutoImageProcessor.from_pretrained(self.weights)
        network = AutoModelForImageClassification.from_pretrained(self.weights)
        self.network = network.to(self.device, getattr(torch, self.dtype)).eval()
        self.labels = network.config.id2label
        # As it was trained: each label by itself, or one of all.
        self.is_multi_label = network.config.problem_type == "multi_label_classification"

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
        """Return, for each row, dicts of label, label_id and score, the best first."""
        inputs = self.processor([row["image"] for row in batch], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device, self.network.dtype)
        logits = self.network(pixel_values=pixels).logits.float()
        scores = logits.sigmoid() if self.is_multi_label else logits.softmax(dim=1)
        best = scores.topk(min(self.config["top_k"], scores.shape[1]))
        return [
            [
                {"label": self.labels[number], "label_id": number, "score": score}
                for number, score in zip(numbers, values, strict=True)
            ]
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
