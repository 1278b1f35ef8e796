"""The job on AWS: what EMR and Batch share in calling and following it; knows no Spark, model or image."""
