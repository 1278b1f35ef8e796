"""clip-retrieval: clip_inference over webdataset tars.

Usage: clip_retrieval_embed.py TARS OUTPUT_DIR MODEL_DIRECTORY
"""

import os
import sys
import tarfile
from pathlib import Path

from clip_retrieval import clip_inference

BATCH_SIZE = 32


def main():
    input_dir, output_dir, model_directory = sys.argv[1:]
    tars = sorted(Path(input_dir).glob("*.tar"))
    with tarfile.open(tars[0]) as tar:
        n_images = sum(name.endswith(".jpg") for name in tar.getnames())
    clip_inference(
        input_dataset=f"{input_dir}/{{{tars[0].stem}..{tars[-1].stem}}}.tar",
        output_folder=output_dir,
        input_format="webdataset",
        clip_model=f"hf_clip:{model_directory}",
        batch_size=BATCH_SIZE,
        num_prepro_workers=len(os.sched_getaffinity(0)),
        enable_text=False,
        enable_metadata=False,
        use_jit=False,
        wds_number_file_per_input_file=n_images,
        output_partition_count=1,
    )


if __name__ == "__main__":  # its data loader starts processes
    main()
