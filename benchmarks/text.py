"""Text alone: the job against a bare batched loop on a CLIP text tower, as a slope over two sizes.

Usage: python -m benchmarks.text [--rounds N] [--sizes SMALL,LARGE]; and of the loop itself:
       python -m benchmarks.text --loop INPUT_DIR OUTPUT_DIR MODEL_DIRECTORY

The loop is one process per core with one thread each: it tokenizes, pads and runs 32 captions at a time, and
writes a parquet file with the vectors. Both are whole processes, in float32.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import CACHE, SEED, save_tokenizer
from benchmarks.measure import System, measure_rounds, ratios
from benchmarks.report import describe_machine, warn_if_busy

N_CORES = len(os.sched_getaffinity(0))
JOB, LOOP = "spark_embed, text", "bare loop, text"
BATCH_SIZE = 32
ROWS_PER_SHARD = 500

_TOWER = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_WORDS = ("a", "cat", "dog", "red", "big", "sky", "sea", "in", "on", "of")


def make_texts(n_texts: int, cache: Path = CACHE) -> Path:
    """Return a folder of parquet shards with captions of 2 to 6 short words, no image beside them."""
    folder = cache / "texts" / str(n_texts)
    if not folder.exists():
        part = folder.with_name(f"{n_texts}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        random = np.random.default_rng(SEED)
        for shard in range(0, n_texts, ROWS_PER_SHARD):
            n_words = random.integers(2, 7, min(ROWS_PER_SHARD, n_texts - shard))
            table = {"caption": [" ".join(random.choice(_WORDS, n)) for n in n_words]}
            pq.write_table(pa.table(table), part / f"{shard:09d}.parquet", row_group_size=100)
        part.rename(folder)
    return folder


def make_text_model(cache: Path = CACHE) -> Path:
    """Return a folder with the text tower of a CLIP ViT-B/32, random weights, and hardly any vision tower."""
    folder = cache / "models" / "text-b-32"
    if not folder.exists():
        import torch
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

        part = folder.with_name("text-b-32.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        torch.manual_seed(SEED)
        CLIPModel(CLIPConfig(text_config=_TOWER, vision_config=vision, projection_dim=512)).save_pretrained(
            part
        )
        CLIPImageProcessor().save_pretrained(part)
        save_tokenizer(part)
        part.rename(folder)
    return folder


def find_systems(cache: Path = CACHE) -> list[System]:
    """Return the job as its command is typed, and the loop."""
    model = make_text_model(cache)
    command = [
        Path(sys.executable).parent / "spark-embed",
        "--task",
        "embed_text",
        "--text_column",
        "caption",
    ]
    return [
        System(
            JOB,
            lambda n_texts, output: [
                *command,
                *("--input_dir", make_texts(n_texts, cache), "--output_dir", output),
                *("--model_directory", model, "--num_workers", str(N_CORES), "--dtype", "float32"),
            ],
            "float32",
        ),
        System(
            LOOP,
            lambda n_texts, output: [
                *(sys.executable, "-m", "benchmarks.text", "--loop"),
                *(make_texts(n_texts, cache), output, model),
            ],
            "float32",
        ),
    ]


def run_loop(input_dir: Path, output_dir: Path, model_directory: Path, number: int, n_workers: int) -> None:
    """Embed every `n_workers`th shard with one thread."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_directory)
    network = transformers.CLIPTextModelWithProjection.from_pretrained(model_directory).eval()
    for path in sorted(input_dir.glob("*.parquet"))[number::n_workers]:
        texts, vectors = pq.read_table(path)["caption"].to_pylist(), []
        for first in range(0, len(texts), BATCH_SIZE):
            batch = texts[first : first + BATCH_SIZE]
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=77, return_tensors="pt")
            with torch.inference_mode():
                vectors.append(torch.nn.functional.normalize(network(**tokens).text_embeds).numpy())
        table = {"caption": texts, "text_embedding": list(np.concatenate(vectors))}
        pq.write_table(pa.table(table), output_dir / path.name)


def _run_workers(input_dir: Path, output_dir: Path, model_directory: Path) -> None:
    import transformers  # noqa: F401  # paid once, as the job's worker daemon pays it

    output_dir.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    arguments = (input_dir, output_dir, model_directory)
    workers = [context.Process(target=run_loop, args=(*arguments, one, N_CORES)) for one in range(N_CORES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", nargs=3, type=Path, metavar=("INPUT_DIR", "OUTPUT_DIR", "MODEL_DIRECTORY"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))), default=(1000, 5000))
    options = parser.parse_args()
    if options.loop:
        return _run_workers(*options.loop)
    warn_if_busy(describe_machine())
    lines = measure_rounds(find_systems(), options.sizes, options.rounds)
    for name, rounds in lines.items():
        print(f"{name:20} {', '.join(f'{line.images_per_s:,.1f}' for line in rounds)} texts/s")
    print(f"job / loop           {ratios(lines, JOB, LOOP).text(3)}")
    return None


if __name__ == "__main__":
    main()
