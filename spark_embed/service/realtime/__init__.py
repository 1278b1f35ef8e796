"""The same models over HTTP, one request at a time, and in batches on the device; knows no Spark."""
