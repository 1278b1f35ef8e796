"""Models behind HTTP: rows become requests, answers become columns; knows no Spark and no output table."""
