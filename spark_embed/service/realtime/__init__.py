"""The same models, one request at a time: HTTP in, vectors or labels out; knows no Spark."""
