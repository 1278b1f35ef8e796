"""The model over HTTP, one image at a time: a door to models and decoding that batches; knows no Spark."""
