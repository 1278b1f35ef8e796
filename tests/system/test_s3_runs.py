"""Whole runs in, out of and across S3: a real server, Hadoop's s3a, and readers that know nothing of us."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.config import Config
from spark_embed.errors import ResumeError, StorageError
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run
from spark_embed.run.begin import look_from_worker
from spark_embed.spark.settings import settings

from support.checkout import REPOSITORY
from support.commands import run_command
from support.s3_runs import assert_tidy, keys_below, read_parquet, upload_tree
from support.s3_server import find_server
from support.vectors import cosines

TIMES_ON_S3 = [  # both on the disk: test_layouts.py
    pytest.param(True, True, marks=pytest.mark.matrix),
    (True, False),
    (False, True),
]


@pytest.fixture
def clip(material):
    """The options of a run whose vectors are known."""
    return {"model_directory": str(material / "clip-tiny"), "dtype": "float32", "parity_samples": 4}


@pytest.fixture(scope="session")
def expected(material):
    """What plain transformers gives for each key."""
    return pd.read_parquet(material / "img2dataset/expected-clip-tiny.parquet").set_index("key")


def assert_expected(embeddings: pd.DataFrame, errors: pd.DataFrame, expected: pd.DataFrame) -> None:
    """401 vectors, each equal to the one that is known, and 8 errors."""
    assert (len(embeddings), len(errors)) == (401, 8)
    assert set(errors["error"]) == {"null_bytes"}
    vectors = np.stack(embeddings.set_index("key")["embedding"].loc[expected.index])
    assert cosines(vectors, np.stack(expected["embedding"])).min() > 0.99999


@pytest.mark.slow
@pytest.mark.parametrize(("from_s3", "to_s3"), TIMES_ON_S3)
def test_the_same_vectors_wherever_they_come_from_and_go(
    s3_spark, s3_server, bucket, material, clip, expected, tmp_path, from_s3, to_s3
):
    source = material / "img2dataset/parquet"
    input_dir = upload_tree(s3_server, source, bucket, "in") if from_s3 else str(source)
    output_dir = f"s3://{bucket}/deep/out" if to_s3 else str(tmp_path / "out")
    summary = run(s3_spark, Config(input_dir=input_dir, output_dir=output_dir, **clip))
    assert summary.status == "complete"
    # As the users' guide does it: pyarrow's own S3 client, which finds the endpoint in the environment.
    embeddings = pd.read_parquet(f"{output_dir}/embeddings.parquet")
    errors = pd.read_parquet(f"{output_dir}/errors.parquet")
    assert_expected(embeddings, errors, expected)
    assert summary.input.transport == "reference"
    if from_s3:
        traffic = summary.traffic
        assert traffic.worker_bytes >= sum(path.stat().st_size for path in source.glob("*.parquet")) * 0.9
        assert 0 < traffic.worker_requests < 100  # ranges of a shard, not one for each image
        assert traffic.task_requests > 0
        assert traffic.driver_requests > 0
        assert "requests by the workers" in summary.text()
    if to_s3:
        assert_expected(
            read_parquet(s3_server, bucket, "deep/out/embeddings.parquet"),
            read_parquet(s3_server, bucket, "deep/out/errors.parquet"),
            expected,
        )
        assert_tidy(s3_server, bucket, "deep/out")
        assert keys_below(s3_server, bucket, "in") or not from_s3
        told = s3_server.client().get_object(Bucket=bucket, Key="deep/out/metadata.json")["Body"].read()
        assert json.loads(told) == json.loads(json.dumps(summary.to_dict()))
    verify(Output(output_dir.replace("s3://", "s3a://"))).check()


@pytest.mark.slow
@pytest.mark.matrix
def test_spark_submit_reaches_s3_with_nothing_else_given(
    s3_server, bucket, material, clip, expected, tmp_path
):
    """Its JVM runs already, without the jars; the job brings them. To executors, too: test_secrets.py."""
    input_dir = upload_tree(s3_server, material / "img2dataset/parquet", bucket, "in")
    environ = {"SPARK_EMBED_MODEL_DIRECTORY": clip.pop("model_directory")}
    done = run_command(
        "spark-submit", REPOSITORY / "jobs/embed.py", "--input_dir", input_dir,
        "--output_dir", f"s3://{bucket}/out", *(f"--{name}={value}" for name, value in clip.items()),
        environ=environ, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "409 rows: 401 embedded, 8 errors" in done.stdout
    once_the_session_is_up = done.stderr.partition('Setting Spark log level to "WARN"')[2]
    assert not re.search(r" INFO [A-Z]\w+: ", once_the_session_is_up)  # Spark's own noise
    assert "copying every file" not in done.stderr  # the committers are there, too
    assert_expected(
        read_parquet(s3_server, bucket, "out/embeddings.parquet"),
        read_parquet(s3_server, bucket, "out/errors.parquet"),
        expected,
    )
    assert_tidy(s3_server, bucket, "out")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["webdataset", "files"])
def test_tars_and_folders_of_objects_are_read(
    s3_spark, s3_server, bucket, material, clip, expected, folder, tmp_path
):
    input_dir = upload_tree(s3_server, material / "img2dataset" / folder, bucket, "in")
    run(s3_spark, Config(input_dir=input_dir, output_dir=f"s3://{bucket}/out", **clip))
    assert_expected(
        read_parquet(s3_server, bucket, "out/embeddings.parquet"),
        read_parquet(s3_server, bucket, "out/errors.parquet"),
        expected,
    )


def test_a_profile_may_name_the_store(s3_spark_elsewhere, material, clip, tmp_path, monkeypatch):
    """Spark's JVM does not look there for it, nor would other machines find the file."""
    with find_server(tmp_path / "s3") as server:
        server.set_environment(monkeypatch)
        bucket = server.make_bucket()
        server.client().upload_file(
            str(material / "img2dataset/parquet/00000.parquet"), bucket, "in/0.parquet"
        )
        photo = next((material / "photos").rglob("*.jpg"))
        server.client().upload_file(str(photo), bucket, "folder/a.jpg")
        (tmp_path / "config").write_text(f"[default]\nendpoint_url = {server.endpoint}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
        for folder in ("in", "folder"):
            paths = {"input_dir": f"s3://{bucket}/{folder}", "output_dir": f"s3://{bucket}/of-{folder}"}
            assert run(s3_spark_elsewhere, Config(**paths, **clip, max_samples=5)).status == "complete"
            assert len(read_parquet(server, bucket, f"of-{folder}/embeddings.parquet")) >= 1


def test_urls_may_be_objects(s3_spark, s3_server, bucket, material, clip, tmp_path):
    """In the bucket of the input and in those that are allowed, by absolute and by relative names."""
    other = s3_server.make_bucket()
    photos = sorted((material / "photos").rglob("*.jpg"))[:6]
    for number, path in enumerate(photos):
        s3_server.client().upload_file(str(path), other if number < 3 else bucket, f"images/{number} ä+.jpg")
    forbidden = s3_server.make_bucket()
    urls = [f"s3://{other}/images/{number} ä+.jpg" for number in range(3)]
    urls += ["../images/3 ä+.jpg", f"s3a://{bucket}/images/4 ä+.jpg", f"s3n://{bucket}/images/5 ä+.jpg"]
    urls += [f"s3://{other}/images/none.jpg", f"s3://{forbidden}/x.jpg", None]
    table = pa.table({"url": urls, "id": [str(number) for number in range(len(urls))]})
    pq.write_table(table, tmp_path / "urls.parquet")
    s3_server.client().upload_file(str(tmp_path / "urls.parquet"), bucket, "tables/urls.parquet")
    options = {"input_dir": f"s3://{bucket}/tables", "allowed_roots": f"s3://{other}"}
    summary = run(s3_spark, Config(**options, output_dir=str(tmp_path / "out"), **clip))
    embeddings = pd.read_parquet(tmp_path / "out/embeddings.parquet")
    errors = pd.read_parquet(tmp_path / "out/errors.parquet").set_index("id")
    assert sorted(embeddings["id"]) == list("012345")
    assert errors["error"].to_dict() == {"6": "not_found", "7": "forbidden", "8": "null_bytes"}
    assert f"--allowed_roots s3://{forbidden}" in errors["error_detail"]["7"]
    assert summary.traffic.worker_requests >= 7


def test_a_data_set_on_s3_is_gone_on_with(s3_spark, s3_server, bucket, shards, tiny_clip, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = sorted(shards.glob("*.parquet"))
    shutil.copy(paths[0], folder)
    input_dir = upload_tree(s3_server, folder, bucket, "in")
    options = {"input_dir": input_dir, "output_dir": f"s3://{bucket}/out", "model_directory": str(tiny_clip)}
    config = Config(**options, parity_samples=0)
    assert run(s3_spark, config).counts.rows == 9

    def no_session():
        raise AssertionError("nothing is to be done")

    assert run(no_session, config).this_run.rows == 9  # what the last one that did something says
    shutil.copy(paths[1], folder)
    upload_tree(s3_server, folder, bucket, "in")  # the first one again, too: at another time, as it was
    summary = run(s3_spark, config)
    assert (summary.counts.rows, summary.this_run.rows) == (18, 9)
    assert len(read_parquet(s3_server, bucket, "out/embeddings.parquet")) == 16
    s3_server.client().delete_object(Bucket=bucket, Key=f"in/{paths[0].name}")
    assert run(s3_spark, config.model_copy(update={"prune": True})).counts.rows == 9
    assert_tidy(s3_server, bucket, "out")
    verify(Output(f"s3a://{bucket}/out")).check()


def test_an_image_folder_on_s3_is_brought_up_to_date(s3_spark, s3_server, bucket, photo_bytes, tiny_clip):
    def put(name, photo):
        s3_server.client().put_object(Bucket=bucket, Key=f"in/{name}", Body=photo_bytes[photo])

    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        put(name, 0)
    options = {"output_dir": f"s3://{bucket}/out", "model_directory": str(tiny_clip), "parity_samples": 0}
    config = Config(input_dir=f"s3://{bucket}/in", **options)
    assert run(s3_spark, config).this_run.rows == 3
    put("b/3.jpg", 1)
    put("b/4.jpg", 1)
    s3_server.client().delete_object(Bucket=bucket, Key="in/a/2.jpg")
    assert run(s3_spark, config).this_run.rows == 3  # the one group
    embeddings = read_parquet(s3_server, bucket, "out/embeddings.parquet").set_index("image_id")["embedding"]
    assert sorted(embeddings.index) == ["a/1.jpg", "b/3.jpg", "b/4.jpg"]
    assert cosines(embeddings["b/3.jpg"][None], embeddings["b/4.jpg"][None]) > 0.99999
    names = [key.rpartition("/")[2] for key in keys_below(s3_server, bucket, "out/_spark_embed/index")]
    assert [name.partition("-")[0] for name in sorted(names)] == ["groups.json", "images"]
    assert not s3_server.client().list_multipart_uploads(Bucket=bucket).get("Uploads")
    verify(Output(f"s3a://{bucket}/out")).check()


def test_one_file_is_one_object_under_its_name(s3_spark, s3_server, bucket, shards, tiny_clip, tmp_path):
    options = {"output_dir": f"s3://{bucket}/out", "model_directory": str(tiny_clip), "parity_samples": 0}
    config = Config(input_dir=str(shards), **options, output_files=1)
    run(s3_spark, config)
    s3_server.client().download_file(bucket, "out/embeddings.parquet", str(tmp_path / "one.parquet"))
    assert len(pd.read_parquet(tmp_path / "one.parquet")) == 24
    assert len(pd.read_parquet(f"s3://{bucket}/out/errors.parquet")) == 3
    assert_tidy(s3_server, bucket, "out")
    more = tmp_path / "in"
    shutil.copytree(shards, more)
    shutil.copy(shards / "00000.parquet", more / "00009.parquet")
    with pytest.raises(ResumeError, match="one file"):
        run(s3_spark, config.model_copy(update={"input_dir": str(more)}))
    run(s3_spark, Config(input_dir=str(more), **options, overwrite=True))  # from one file to many
    assert len(read_parquet(s3_server, bucket, "out/embeddings.parquet/")) == 32
    run(s3_spark, config.model_copy(update={"overwrite": True}))  # and back
    assert len(pd.read_parquet(f"s3://{bucket}/out/embeddings.parquet")) == 24
    assert_tidy(s3_server, bucket, "out")


def test_workers_that_do_not_reach_the_output_are_told_of_before_the_work(s3_spark, bucket):
    look_from_worker(s3_spark, f"s3a://{bucket}/out")
    with pytest.raises(StorageError, match=r"but not the workers.*there is no bucket.*role"):
        look_from_worker(s3_spark, "s3a://no-bucket-of-this-name/out")


RENAMING = {
    "spark.sql.sources.commitProtocolClass": (
        "org.apache.spark.sql.execution.datasources.SQLHadoopMapReduceCommitProtocol"
    ),
    "spark.sql.parquet.output.committer.class": "org.apache.parquet.hadoop.ParquetOutputCommitter",
}


def test_a_commit_that_renames_is_warned_of(s3_spark, bucket, shards, tiny_clip, log):
    options = {"input_dir": str(shards), "model_directory": str(tiny_clip), "parity_samples": 0}
    run(s3_spark, Config(output_dir=f"s3://{bucket}/magic", **options))
    assert "copying every file" not in log.text
    with settings(s3_spark, RENAMING):
        run(s3_spark, Config(output_dir=f"s3://{bucket}/renamed", **options))
    assert log.text.count("copying every file") == 1
    assert len(pd.read_parquet(f"s3://{bucket}/renamed/embeddings.parquet")) == 24
