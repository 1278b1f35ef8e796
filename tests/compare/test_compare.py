"""The command: steps and the job over the same photos, and what compare.json says of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spark_embed.compare.ladder import STEPS
from spark_embed.config import Config
from spark_embed.errors import ConfigError

from support.commands import BIN, run_command

STEP_KEYS = {
    *("name", "title", "mistake", "cure", "program", "n_images", "images_per_s", "cpu_s", "peak_mb"),
    *("jvm_python_mb", "n_model_loads", "n_output_files", "gpu", "min_cosine", "n_compared", "memory_mb"),
    "stage_s",
}


@pytest.fixture(scope="module")
def small_photos(tmp_path_factory, photos):
    """Twelve small JPEGs, one that is broken and one that is not there."""
    folder = tmp_path_factory.mktemp("photos")
    images = []
    for number in range(12):
        photo = photos[number % len(photos)].resize((90 + number, 70), Image.Resampling.BILINEAR)
        photo.save(folder / "photo", "JPEG", quality=90)
        images.append((folder / "photo").read_bytes())
    (folder / "photo").unlink()
    images[3:3] = [None, images[0][:500]]
    keys = [str(number) for number in range(len(images))]
    pq.write_table(pa.table({"key": keys, "jpg": images}), folder / "photos.parquet")
    return folder


@pytest.fixture
def compared(small_photos, tiny_clip, tmp_path):
    def compared(*flags):
        """Run the command; returns what it printed, and its figures."""
        given = ["--input_dir", small_photos, "--model_directory", tiny_clip, "--output", tmp_path / "out"]
        done = run_command(BIN / "spark-embed", "compare", *given, "--max_samples", "24", *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / "out/compare.json").read_text())

    return compared


def check(result, names):
    """Assert what holds of every comparison."""
    assert (result["product"], result["format"]) == ("spark_embed_compare", 1)
    assert result["input"]["n_rows"] == 12  # that can be decoded
    assert [step["name"] for step in result["steps"]] == names
    for step in result["steps"]:
        assert set(step) == STEP_KEYS
        assert step["n_compared"] == step["n_images"] == 24
        assert step["min_cosine"] >= (0.99999 if result["model"]["dtype"] == "float32" else 0.999)
        assert step["cpu_s"]["python"] > 0
        assert step["peak_mb"] > 100
        assert step["n_output_files"] >= 1
        assert step["memory_mb"][0][0] == 0
        assert len(step["images_per_s"]) == result["n_rounds"]


@pytest.mark.compare
def test_a_step_and_the_job_give_the_same_vectors_and_their_figures(compared):
    printed, result = compared("--only", "two-udfs", "--rounds", "1")
    check(result, ["two-udfs", "job"])
    baseline, job = result["steps"]
    # 3 x 64 x 64 floats to Python and back, and nothing but references.
    assert baseline["jvm_python_mb"] >= 24 * 2 * 3 * 64 * 64 * 4 / 1e6
    assert job["jvm_python_mb"] < 0.1
    assert baseline["n_output_files"] > job["n_output_files"] == 1
    assert result["verdict"][0] in printed
    assert "| Decode and predict in two UDFs (24)" in printed


@pytest.mark.compare
@pytest.mark.timeout(1800)
def test_all_steps_give_the_vectors_of_the_job(compared):
    _, result = compared("--rounds", "1")
    check(result, [step.name for step in STEPS])
    loads = {step["name"]: step["n_model_loads"] for step in result["steps"]}
    assert loads["model-per-task"] > loads["float32"]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--only", "nope"], "--only nope: no such step"),
        (["--rounds", "0"], "must be a number from 1 on"),
        (["--input_dir", "/no/such"], "--input_dir /no/such: there is no such folder"),
        (["--task", "embed_text", "--text_column", "caption"], "compare is for vision models"),
    ],
)
def test_what_cannot_be_compared_is_told(flags, word, small_photos, command_here, tmp_path, monkeypatch):
    monkeypatch.setattr("spark_embed.compare.run.find_session", lambda: None)
    given = ["compare", "--input_dir", small_photos, "--output", tmp_path, *flags]
    code, said = command_here(*given)
    assert code == 2
    assert word in said


def test_a_bucket_for_anybody_is_read_without_credentials():
    config = Config(input_dir="s3://anonymous@photos/2026", output_dir="out", anonymous_buckets="others")
    assert config.input_dir == "s3://photos/2026"
    assert config.anonymous_buckets == ("others", "photos")
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_photos_of_the_demo_stand_in_where_a_store_is_away(tmp_path, monkeypatch, log):
    from spark_embed.cli.compare import _reachable
    from spark_embed.errors import StorageError

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.chdir(tmp_path)
    config = Config(input_dir="s3://anonymous@photos/2026", output_dir="out")
    with pytest.raises(StorageError, match="photos"):
        _reachable(config)
    (tmp_path / "demo/photos").mkdir(parents=True)
    assert _reachable(config).input_dir == str(tmp_path / "demo/photos")
    assert "the photos of demo/photos are taken instead" in log.text


def test_a_session_that_is_there_is_no_place_for_it(spark, small_photos):
    from spark_embed.compare.run import compare

    config = Config(input_dir=str(small_photos), output_dir="out")
    with pytest.raises(ConfigError, match="compare: starts a Spark for each step"):
        compare(config, STEPS, 1, "out")
