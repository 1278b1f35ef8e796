# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From photos to nearest neighbours
#
# Install once: `make run-local` in the checkout sets up `.venv`, with Java where it is missing. Start this
# notebook with that Python. It takes less than a minute on two cores, and needs no network.
#
# To use photos of your own, set `WALKTHROUGH_INPUT` to a folder or a bucket before the kernel starts, such as
# `s3://air-example-data-2/imagenette2/train/`, which is public. Where it cannot be read, the demo photos are.

# %%
import logging
import os
import sys
import tempfile
from pathlib import Path

# Spark's workers must run this Python. A kernel that Spark has started in already is too late for it.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

import pandas as pd
from IPython.display import HTML, display
from pyspark.sql import SparkSession

from spark_embed import Config, SparkEmbedError, pipeline
from spark_embed.spark.session import make_session

CHECKOUT = next(path for path in (Path.cwd(), *Path.cwd().parents) if (path / "tools/make_demo.py").exists())
FOLDER = Path(os.environ.get("WALKTHROUGH_FOLDER") or tempfile.mkdtemp())
INPUT = os.environ.get("WALKTHROUGH_INPUT", "")
OUTPUT = f"{FOLDER}/vectors"
N_PHOTOS = 60

# %% [markdown]
# ## The photos
#
# Crops of the photos inside scikit-image and scikit-learn, as img2dataset would have written them: a parquet
# shard with the encoded image in a column and others beside it. One row has none, as after a failed download.

# %%
sys.path.insert(0, str(CHECKOUT / "tools"))
import make_demo
import pyarrow as pa
import pyarrow.parquet as pq

DEMO = FOLDER / "photos"
DEMO.mkdir(parents=True, exist_ok=True)
rows = make_demo.make_rows()
rows = [row for row in rows if row["jpg"] is None] + [row for row in rows if row["jpg"]][: N_PHOTOS - 1]
pq.write_table(pa.Table.from_pylist(rows), DEMO / "00000.parquet")
print(f"{len(rows)} rows")

# %% [markdown]
# ## The job
#
# `Config` has every option of the command (`docs/options.md`). Without `model_directory` the embedded
# EfficientNet-Lite0 is used. What is complete is not done again: run this cell twice.


# %%
def embed(input_dir):
    """Bring the vectors of OUTPUT up to date with a folder or a bucket."""
    is_public = input_dir.startswith("s3://")
    config = Config(input_dir=input_dir, output_dir=OUTPUT, max_samples=N_PHOTOS, anonymous=is_public)
    return pipeline.run(make_session(config), config)  # the session of before, if there is one


try:
    summary = embed(INPUT or str(DEMO))
except SparkEmbedError as error:
    if not INPUT:
        raise
    print(f"{INPUT} cannot be used, so the demo photos are: {error}")
    summary = embed(str(DEMO))
print(summary.text())

# %% [markdown]
# Nothing below needs Spark.

# %%
SparkSession.getActiveSession().stop()

# %% [markdown]
# ## The tables
#
# Each row of the input is in exactly one of the two: with a vector, or with the reason why it has none.

# %%
table = pd.read_parquet(f"{OUTPUT}/embeddings.parquet")
table.drop(columns=["url", "status"], errors="ignore").head()

# %%
pd.read_parquet(f"{OUTPUT}/errors.parquet")[["image_id", "shard", "shard_row", "error", "error_detail"]]

# %% [markdown]
# ## Is it whole?
#
# `spark-embed verify` reads what is published, every column of every file once.

# %%
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify

report = verify(Output(OUTPUT))
report.check()
print(report.text())

# %% [markdown]
# ## A page to show
#
# `spark-embed report` writes the run as one HTML page that needs nothing else, and as Markdown and JSON.

# %%
from spark_embed.cli.report import run_report

run_report([OUTPUT], sys.stdout.write)

# %% [markdown]
# ## The index
#
# `spark-embed index` makes the vectors searchable, and measures how many of the true neighbours it finds.

# %%
from spark_embed.search.build import build_index
from spark_embed.search.index import Index

logging.getLogger("spark_embed").setLevel(logging.WARNING)
manifest = build_index(OUTPUT)
index = Index.open(OUTPUT)
print(f"{manifest.factory}: {manifest.n_vectors} vectors of {manifest.dim}, recall {manifest.recall:.3f}")

# %% [markdown]
# ## The neighbours
#
# Of three photos the four that are nearest: crops of the same one, mirrored or not. The pictures are read
# from the data set again, by the rows' shard and number.

# %%
import base64

from spark_embed.search.pictures import Pictures

pictures = Pictures(OUTPUT)


def neighbours(image_id, k=4):
    """Return the k rows that are nearest to a row, and itself first."""
    return index.search(index.vector_of(index.rows.number_of(image_id)), k + 1)


def picture(hit):
    """Return a row's picture as HTML, with its cosine."""
    data = base64.b64encode(pictures.read(hit.shard, hit.shard_row)).decode()
    image = f'<img src="data:image;base64,{data}" style="height:110px" alt="">'
    return f"<td>{image}<br>{hit.score:.2f}</td>"


chosen = table.drop_duplicates("caption" if "caption" in table else "image_id")["image_id"].head(3)
found = {image_id: neighbours(image_id) for image_id in chosen}
lines = ["<tr>" + "".join(map(picture, hits)) + "</tr>" for hits in found.values()]
display(HTML(f"<table>{''.join(lines)}</table>"))

# %%
# What a program makes of it: how many of the neighbours are crops of the same photo.
if "caption" in table:
    captions = [[hit.columns["caption"] for hit in hits] for hits in found.values()]
    same = [caption == first for first, *others in captions for caption in others]
    print(f"{sum(same)} of {len(same)} neighbours are of the same photo")
