"""The job on Amazon EMR: clusters, steps, releases in S3, logs."""
