"""LitServe: its API process reads the bodies, one worker decodes and predicts in batches.

Usage: litserve_serve.py PORT; MODEL_DIRECTORY and BATCH_SIZE in the environment
"""

import os
import sys

import litserve
from fastapi import Request

from benchmarks.service_model import ServedModel


class Embed(litserve.LitAPI):
    """A vector of an image."""

    def setup(self, device):
        """Load the model, in the worker."""
        self.model = ServedModel(os.environ["MODEL_DIRECTORY"])

    def decode_request(self, request: Request):
        """Decode one image; a form's file is what its documentation has for images."""
        return self.model.prepare(request["image"].file.read())

    def batch(self, inputs):
        """Leave the batch as it is: a list."""
        return inputs

    def unbatch(self, output):
        """Return the vectors one by one."""
        return list(output)

    def predict(self, batch):
        """Predict a batch."""
        return self.model.predict(batch)

    def encode_response(self, output):
        """Return what becomes JSON."""
        return {"output": [output.tolist()]}


if __name__ == "__main__":
    api = Embed(max_batch_size=int(os.environ["BATCH_SIZE"]), batch_timeout=0.003, api_path="/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
