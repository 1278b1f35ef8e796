"""mosec: one process decodes, one predicts in batches; a Rust server in front.

Usage: mosec_serve.py --port PORT --capacity N --timeout MS; MODEL_DIRECTORY and BATCH_SIZE in the environment
"""

import os

from mosec import Server, Worker

from benchmarks.service_model import ServedModel


class Decode(Worker):
    """Encoded image -> what the network takes."""

    def __init__(self):
        self.model = ServedModel(os.environ["MODEL_DIRECTORY"])

    def deserialize(self, data):
        """Return the body as it came."""
        return data

    def forward(self, data):
        """Decode one image."""
        return self.model.prepare(data)


class Predict(Worker):
    """A batch of prepared images -> their vectors."""

    def __init__(self):
        self.model = ServedModel(os.environ["MODEL_DIRECTORY"])

    def forward(self, data):
        """Predict a batch."""
        return [{"output": [vector.tolist()]} for vector in self.model.predict(data)]


if __name__ == "__main__":
    server = Server()
    batch = {"max_batch_size": int(os.environ["BATCH_SIZE"]), "max_wait_time": 3}
    server.append_worker(Decode, num=1)
    server.append_worker(Predict, num=1, **batch)
    server.run()
