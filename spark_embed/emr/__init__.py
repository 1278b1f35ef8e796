"""The job on Amazon EMR: clusters, steps, releases in S3, logs; knows no Spark, no model and no image."""
