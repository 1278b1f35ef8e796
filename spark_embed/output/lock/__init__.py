"""One run at a time on an output folder; knows no Spark."""
