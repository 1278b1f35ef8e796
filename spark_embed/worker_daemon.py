"""Python workers that start with torch imported: Spark's own daemon, with the slow imports before it forks.

Every worker is forked from the daemon, so that an executor pays for the imports once and its workers share
their memory. Spark starts it where spark.python.daemon.module names it (conf/local.conf). Importing torch
starts no thread and touches no GPU, which is what makes the fork safe.
"""

import gc

import timm
import torch
import torchvision
import transformers
from pyspark.daemon import manager
from transformers import AutoImageProcessor, AutoModel

IMPORTED = (timm, torch, torchvision, transformers, AutoImageProcessor, AutoModel)

if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # the workers' collector leaves these pages alone, so they stay shared
    manager()  # type: ignore[no-untyped-call]
