"""What --jpeg_scaling gains on photos of 12 megapixels with a sensor's noise, and what it costs.

Usage: python -m benchmarks.large_photos [--rounds 2] [--n_images 720]
       python -m benchmarks.large_photos --neighbours FOLDER

The first runs the job with `off` and with `auto`, in turns, over baseline JPEGs of 1.5 MB and more, then once
over progressive ones, and prints a table: some four minutes on two cores. The second takes a folder of
categories of photos, enlarges each to 12 megapixels with noise, and prints how well its neighbours tell the
category, decoded whole and scaled.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.data import CACHE, SEED, load_photos, make_model, random_crop

SIZE = (4032, 3024)
NOISE = 4.0  # grey levels, standard deviation: at quality 88 1.5 MB and more
ROWS_PER_SHARD = 24
_NEIGHBOURS = 5


def camera_jpeg(photo: Image.Image, number: int, *, progressive: bool = False) -> bytes:
    """Return the photo at the size of `SIZE`, turned where it is upright, with noise."""
    size = SIZE if photo.width >= photo.height else SIZE[::-1]
    pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    noise = NOISE * np.random.default_rng([SEED, number]).standard_normal(pixels.shape, dtype=np.float32)
    buffer = io.BytesIO()
    noisy = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    noisy.save(buffer, "JPEG", quality=88, progressive=progressive)
    return buffer.getvalue()


def make_shards(n_images: int, *, progressive: bool) -> Path:
    """Return a folder of shards with `n_images` rows: one shard of different photos, again and again."""
    kind = "progressive" if progressive else "baseline"
    pool = CACHE / "shards" / f"12-megapixels-{kind}.parquet"
    if not pool.exists():
        pool.parent.mkdir(parents=True, exist_ok=True)
        photos = load_photos()
        images = []
        for number in range(ROWS_PER_SHARD):
            random = np.random.default_rng([SEED, number])
            crop = random_crop(photos[number % len(photos)], *SIZE, random)
            images.append(camera_jpeg(crop, number, progressive=progressive))
        table = pa.table({"key": [f"{row:02d}" for row in range(ROWS_PER_SHARD)], "jpg": images})
        pq.write_table(table, pool.with_suffix(".part"), row_group_size=8)
        pool.with_suffix(".part").rename(pool)
    folder = CACHE / "shards" / f"12-megapixels-{kind}-{n_images}"
    folder.mkdir(exist_ok=True)
    for shard in range(n_images // ROWS_PER_SHARD):
        if not (folder / f"{shard:05d}.parquet").exists():
            os.link(pool, folder / f"{shard:05d}.parquet")
    return folder


def run_job(shards: Path, scaling: str) -> dict[str, float]:
    """Run the job once; returns its images/s, and the milliseconds that decode threads take for an image."""
    output = CACHE / "runs" / f"large-{scaling}"
    shutil.rmtree(output, ignore_errors=True)
    program = Path(sys.executable).parent / "spark-embed"
    options = {"input_dir": shards, "output_dir": output, "model_directory": make_model("tiny")}
    command = [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
    subprocess.run([*command, "--jpeg_scaling", scaling, "--parity_samples", "4"], check=True)
    told = json.loads((output / "metadata.json").read_text())
    if bool(told["model"]["jpeg_scaling"]) != (scaling == "auto"):
        raise SystemExit(f"--jpeg_scaling {scaling}: {told['parity']['jpeg_scaling']}")
    n_rows, stages = told["counts"]["embedded"], told["stage_s"]
    return {
        "images_per_s": told["throughput"]["images_per_s"],
        "decode_ms": 1000 * stages["decode_s"] / n_rows,
    }


def smallest_cosine(n_rows: int) -> float:
    """Return the smallest cosine between the vectors of the last two runs, row by row."""
    vectors = []
    for scaling in ("off", "auto"):
        table = pq.read_table(CACHE / "runs" / f"large-{scaling}" / "embeddings.parquet")
        table = table.sort_by([("shard", "ascending"), ("shard_row", "ascending")])
        vectors.append(np.stack(table["embedding"].to_numpy()))
    if len(vectors[0]) != n_rows or len(vectors[1]) != n_rows:
        raise SystemExit("a run has lost rows")
    return float(np.sum(vectors[0] * vectors[1], axis=1).min())


def compare_runs(n_rounds: int, n_images: int) -> None:
    """Print the table."""
    columns = ("JPEGs", "MB", "off, images/s", "auto, images/s", "auto : off", "decode, ms")
    print(f"| {' | '.join((*columns, 'smallest cosine'))} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for progressive in (False, True):
        shards = make_shards(n_images, progressive=progressive)
        runs: dict[str, list[dict[str, float]]] = {"off": [], "auto": []}
        for number in range(1 if progressive else n_rounds):
            for scaling in ("off", "auto") if number % 2 == 0 else ("auto", "off"):
                runs[scaling].append(run_job(shards, scaling))
        middle = {
            scaling: {name: statistics.median(run[name] for run in found) for name in found[0]}
            for scaling, found in runs.items()
        }
        pairs = zip(runs["off"], runs["auto"], strict=True)
        ratios = [auto["images_per_s"] / off["images_per_s"] for off, auto in pairs]
        off, auto = middle["off"], middle["auto"]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        size = (shards / "00000.parquet").stat().st_size / ROWS_PER_SHARD / 1e6
        print(
            f"| {'progressive' if progressive else 'baseline'} | {size:.1f} | {off['images_per_s']:.0f} | "
            f"{auto['images_per_s']:.0f} | {ratio} | "
            f"{off['decode_ms']:.1f} -> {auto['decode_ms']:.1f} | "
            f"{smallest_cosine(n_images):.5f} |",
            flush=True,
        )


def compare_neighbours(folder: Path) -> None:
    """Print leave-one-out top-1 and precision at 5 of the embedded model, float32, whole and scaled."""
    from spark_embed.inference.decode import open_image
    from spark_embed.inference.preflight.jpeg_scaling import smallest_edge
    from spark_embed.models import Inputs, Recipe, load_model

    model, _ = load_model(Recipe(dtype="float32", device="cpu"))
    paths = sorted(folder.glob("*/*.jpg"))
    labels = np.array([path.parent.name for path in paths])
    vectors: dict[str, list[np.ndarray]] = {"whole": [], "scaled": []}
    for number, path in enumerate(paths):
        data = camera_jpeg(Image.open(path).convert("RGB"), number)
        for name, min_edge in (("whole", None), ("scaled", smallest_edge(model))):
            opened = open_image(data, min_edge=min_edge)
            prepared = model.prepare(Inputs(opened.decode(), box=opened.box))
            vectors[name].append(model.predict([prepared]).columns["embedding"][0])
    cosines = np.sum(np.stack(vectors["whole"]) * np.stack(vectors["scaled"]), axis=1)
    print(
        f"{len(paths)} photos; cosine of whole and scaled: {cosines.min():.5f} at least, {cosines.mean():.5f}"
    )
    for name, found in vectors.items():
        similar = np.stack(found) @ np.stack(found).T
        np.fill_diagonal(similar, -1)
        nearest = np.argsort(-similar, axis=1)[:, :_NEIGHBOURS]
        same = labels[nearest] == labels[:, None]
        print(f"{name}: top-1 {same[:, 0].mean():.4f}, precision@{_NEIGHBOURS} {same.mean():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--n_images", type=int, default=720)
    parser.add_argument("--neighbours", type=Path)
    given = parser.parse_args()
    if given.neighbours:
        compare_neighbours(given.neighbours)
    else:
        compare_runs(given.rounds, given.n_images)


if __name__ == "__main__":
    main()
