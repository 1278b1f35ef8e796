"""A stand-in for TaskContext.get(), with what Spark gave the task."""

from pyspark.resource import ResourceInformation


class Task:
    """A task with these cores, of this attempt, and addresses by resource."""

    def __init__(self, cpus=1, attempt=0, **addresses):
        self.cpus = lambda: cpus
        self.attemptNumber = lambda: attempt
        self.resources = lambda: {n: ResourceInformation(n, found) for n, found in addresses.items()}
