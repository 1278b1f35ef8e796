"""The job on AWS Batch: the stack that it runs in, jobs and logs; one container, with Spark in local mode."""
