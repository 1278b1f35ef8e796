"""The output folder: its records, what is complete, who may write; to look at it takes no Spark, no model."""
