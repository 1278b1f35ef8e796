"""Daft: decode_image and embed_image, native runner.

Usage: daft_embed.py INPUT_DIR OUTPUT_DIR MODEL_DIRECTORY
"""

import os
import sys

import daft
import torch
from daft import col
from daft.functions import decode_image, embed_image

BATCH_SIZE = 32

input_dir, output_dir, model_directory = sys.argv[1:]
daft.set_runner_native()
torch.set_num_threads(len(os.sched_getaffinity(0)))  # one model for the whole process
image = decode_image(col("jpg"), on_error="null", mode="RGB")
vector = embed_image(image, provider="transformers", model=model_directory, batch_size=BATCH_SIZE)
table = daft.read_parquet(f"{input_dir}/*.parquet").select("key", "jpg")
table.with_column("embedding", vector).select("key", "embedding").write_parquet(output_dir)
