"""Make a small data set of real photos, in img2dataset's shape: crops of those in scikit-image and -learn.

Usage: make_demo.py FOLDER
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn.datasets
from PIL import Image
from skimage import data

# Those that come inside scikit-image's wheel; its other photos would be downloaded.
PHOTOS = (
    "astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "immunohistochemistry", "moon",
    "retina", "rocket",
)  # fmt: skip
CROPS_PER_PHOTO = 8
ROWS_PER_SHARD = 32
SEED = 0


def load_photos() -> dict[str, Image.Image]:
    photos = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOS}
    samples = sklearn.datasets.load_sample_images()
    for path, array in zip(samples.filenames, samples.images, strict=True):
        photos[Path(path).stem] = Image.fromarray(array)
    return photos


def random_crop(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut out half to nine tenths of each side, and half of the time mirror it."""
    width, height = (int(side * random.uniform(0.5, 0.9)) for side in photo.size)
    left = int(random.integers(0, photo.width - width + 1))
    top = int(random.integers(0, photo.height - height + 1))
    crop = photo.crop((left, top, left + width, top + height))
    crop.thumbnail((400, 400))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


def make_rows() -> list[dict[str, object]]:
    random = np.random.default_rng(SEED)
    rows: list[dict[str, object]] = []
    for name, photo in load_photos().items():
        for number in range(CROPS_PER_PHOTO):
            crop = random_crop(photo, random)
            encoded = io.BytesIO()
            crop.save(encoded, "JPEG", quality=90)
            rows.append(
                {"caption": name, "url": f"{name}/{number}", "status": "success", "jpg": encoded.getvalue()}
            )
    # A download that failed, as img2dataset keeps it: it ends in errors.parquet.
    rows.append({"caption": "gone", "url": "gone/0", "status": "failed_to_download", "jpg": None})
    order = random.permutation(len(rows))
    return [{"key": f"{position:05d}", **rows[i]} for position, i in enumerate(order)]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows = make_rows()
    for shard, start in enumerate(range(0, len(rows), ROWS_PER_SHARD)):
        pq.write_table(
            pa.Table.from_pylist(rows[start : start + ROWS_PER_SHARD]), folder / f"{shard:05d}.parquet"
        )
    print(f"{len(rows)} rows of real photos in {folder}")


if __name__ == "__main__":
    main()
