"""The generated images, shards and models that everything is measured on; made once, kept in `CACHE`.

Images are random crops of the photos inside scikit-image and scikit-learn, always the same ones. A data
set of n images is a folder of hard links to the first shards of a pool, so two sizes share their disk.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CACHE = Path(__file__).parent / ".cache"
SEED = 0

# Those with enough detail to fill the size; the moon and the coins have not.
SKIMAGE_PHOTOS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina")


@dataclass(frozen=True)
class Regime:
    """One kind of load.

    Attributes:
        n_bytes: size that every JPEG comes close to, by its quality; None: quality 90.
        n_distinct: images that are made; a larger data set repeats them.
        sizes: the two numbers of images that a measurement compares.
        model: which of `VISION` goes with it.
        noise: of a sensor, in grey levels (standard deviation).
    """

    name: str
    width: int
    height: int
    n_bytes: int | None
    n_distinct: int
    rows_per_shard: int
    rows_per_group: int
    sizes: tuple[int, int]
    model: str
    noise: float = 0.0

    def image_bytes(self, number: int) -> bytes:
        """Return the JPEG of this number; the same one whenever it is asked for."""
        random = np.random.default_rng([SEED, number])
        photos = load_photos()
        crop = random_crop(photos[number % len(photos)], self.width, self.height, random)
        if self.noise:
            crop = add_noise(crop, self.noise, random)
        return encode_jpeg(crop, 90) if self.n_bytes is None else encode_to_size(crop, self.n_bytes)


FEED = Regime("feed", 500, 375, 110_000, 2000, 1000, 250, (4000, 16_000), "tiny")
"""Feed-bound: photos of the size that ImageNet's have, a model that costs almost nothing."""

MODEL = Regime("model", 256, 256, None, 1000, 100, 25, (200, 1000), "vit-b-32")
"""Model-bound: small photos, a CLIP ViT-B/32."""

LARGE = Regime("large", 6000, 4000, None, 4, 20, 20, (40, 40), "tiny")
"""Photos of 24 megapixels, a task of 20: for memory alone."""

CAMERA = Regime("camera", 4032, 3024, None, 24, 24, 8, (48, 240), "tiny", noise=4.0)
"""Photos of 12 megapixels with a sensor's noise, about 2 MB each: decoding is all that counts."""

REGIMES = {regime.name: regime for regime in (FEED, MODEL, CAMERA)}

# Vision towers, in the terms of transformers' CLIPVisionConfig, and the size of the vector.
VISION: dict[str, tuple[dict[str, int], int]] = {
    "tiny": (
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 32,
        },
        512,
    ),
    "vit-b-32": ({"hidden_size": 768, "intermediate_size": 3072, "patch_size": 32}, 512),
    "vit-b-16": ({"hidden_size": 768, "intermediate_size": 3072, "patch_size": 16}, 512),
    "vit-l-14": (
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        768,
    ),
}

_photos: list[Image.Image] = []


def load_photos() -> list[Image.Image]:
    """Return the photos that the crops are cut from, RGB."""
    if not _photos:
        import sklearn.datasets
        from skimage import data

        _photos.extend(Image.fromarray(getattr(data, name)()).convert("RGB") for name in SKIMAGE_PHOTOS)
        _photos.extend(Image.fromarray(array) for array in sklearn.datasets.load_sample_images().images)
    return _photos


def random_crop(photo: Image.Image, width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Cut out 0.7 to 1 of the largest window of this shape, and scale it to the size."""
    scale = random.uniform(0.7, 1.0) * min(photo.width / width, photo.height / height)
    crop_width, crop_height = int(scale * width), int(scale * height)
    left = int(random.integers(0, photo.width - crop_width + 1))
    top = int(random.integers(0, photo.height - crop_height + 1))
    box = (left, top, left + crop_width, top + crop_height)
    return photo.resize((width, height), Image.Resampling.BICUBIC, box=box)


def add_noise(image: Image.Image, noise: float, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + noise * random.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)  # 4:2:0, as nearly all photos on the web
    return buffer.getvalue()


def encode_to_size(image: Image.Image, n_bytes: int) -> bytes:
    """Return the JPEG whose size is nearest to `n_bytes`, by its quality."""
    low, high = 1, 100
    while low < high:  # for the highest quality that is not larger
        quality = (low + high + 1) // 2
        if len(encode_jpeg(image, quality)) <= n_bytes:
            low = quality
        else:
            high = quality - 1
    candidates = [encode_jpeg(image, quality) for quality in (low, min(low + 1, 100))]
    return min(candidates, key=lambda data: abs(len(data) - n_bytes))


def make_shards(regime: Regime, n_images: int, cache: Path = CACHE) -> Path:
    """Return a folder of parquet shards with `n_images` rows, in img2dataset's shape.

    Raises:
        ValueError: `n_images` is not a multiple of the rows of a shard.
    """
    n_shards, rest = divmod(n_images, regime.rows_per_shard)
    if rest or not n_shards:
        raise ValueError(f"{n_images} images: must be a multiple of {regime.rows_per_shard}, a shard's rows")
    folder = cache / "shards" / f"{regime.name}-{n_images}"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(n_shards):
        name = f"{shard:05d}.parquet"
        if not (folder / name).exists():
            os.link(_make_shard(regime, shard, cache), folder / name)
    return folder


def make_tars(regime: Regime, n_images: int, cache: Path = CACHE) -> Path:
    """Return a folder of webdataset tars with the same images, for the system that reads nothing else."""
    shards = make_shards(regime, n_images, cache)
    folder = cache / "tars" / shards.name
    folder.mkdir(parents=True, exist_ok=True)
    for shard in sorted(shards.glob("*.parquet")):
        path = folder / f"{shard.stem}.tar"
        if not path.exists():
            _write_tar(pq.read_table(shard, columns=["key", "caption", "jpg"]), path)
    return folder


def make_model(name: str, cache: Path = CACHE) -> Path:
    """Return a folder with a CLIP of `VISION` in Hugging Face layout, its weights random but the same.

    The text tower is as small as it can be: only the images' vectors are measured.
    """
    folder = cache / "models" / name
    if not folder.exists():
        part = folder.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _save_clip(name, part)
        save_tokenizer(part)
        part.rename(folder)
    return folder


def _make_shard(regime: Regime, number: int, cache: Path) -> Path:
    path = cache / "shards" / f"{regime.name}-pool" / f"{number:05d}.parquet"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    first = number * regime.rows_per_shard
    rows = range(first, first + regime.rows_per_shard)
    period = regime.n_distinct // regime.rows_per_shard  # shards until the images repeat
    if period and number >= period:
        images = pq.read_table(_make_shard(regime, number % period, cache), columns=["jpg"])["jpg"]
    else:
        images = pa.array([regime.image_bytes(row % regime.n_distinct) for row in rows], pa.binary())
    table = pa.table(
        {
            "key": [f"{row:09d}" for row in rows],
            "url": [f"https://images.invalid/{row:09d}.jpg" for row in rows],
            "caption": [f"a photo, number {row}" for row in rows],
            "width": pa.array([regime.width] * len(rows), pa.int32()),
            "height": pa.array([regime.height] * len(rows), pa.int32()),
            "jpg": images,
        }
    )
    part = path.with_suffix(".part")
    pq.write_table(table, part, row_group_size=regime.rows_per_group)
    part.rename(path)
    return path


def _write_tar(table: pa.Table, path: Path) -> None:
    part = path.with_suffix(".part")
    with tarfile.open(part, "w") as tar:
        for row in table.to_pylist():
            for suffix, data in (("jpg", row["jpg"]), ("txt", row["caption"].encode())):
                member = tarfile.TarInfo(f"{row['key']}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    part.rename(path)


def _save_clip(name: str, folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vision, projection_dim = VISION[name]
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 49_408,  # OpenAI's, with which clip-retrieval warms up
        "projection_dim": projection_dim,
    }
    config = CLIPConfig(
        text_config=text,
        vision_config={**vision, "image_size": 224, "projection_dim": projection_dim},
        projection_dim=projection_dim,
    )
    torch.manual_seed(SEED)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)  # its defaults are CLIP's own


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of single characters: clip-retrieval loads one before it looks at an image."""
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(_vocabulary())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {f"{name}_token": "<|endoftext|>" for name in ("eos", "pad", "unk")}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **special}))


def _vocabulary() -> list[str]:
    characters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    words = [f"{character}</w>" for character in characters]
    return [*characters, *words, "<|startoftext|>", "<|endoftext|>"]
