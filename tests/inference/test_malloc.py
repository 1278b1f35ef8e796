"""Freed memory stays in the worker, so that the next image finds it."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from spark_embed.inference.malloc import keep_freed_memory

def faults_of_20_batches():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        batch, pixels = np.ones(10 << 20, dtype=np.uint8), np.ones(600_000, dtype=np.uint8)
        del batch, pixels
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if not keep_freed_memory():
    sys.exit("this C library has no mallopt")
faults_of_20_batches()
print(faults_of_20_batches())
"""


def test_batches_reuse_their_memory():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    if "no mallopt" in done.stderr:
        pytest.skip(done.stderr)
    assert int(done.stdout) < 200  # pages; fresh ones for every batch would be 50,000
