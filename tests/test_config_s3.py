"""--config in S3: read as from here, never more than its limit, and what is said where it cannot be."""

import pytest

from spark_embed.errors import ConfigError
from spark_embed.load_config import MAX_YAML_BYTES, load_config
from spark_embed.storage.s3 import client as s3_client

PATHS = ["--input_dir", "in", "--output_dir", "out"]


@pytest.fixture
def config_file(bucket, s3_server):
    """Put a file of options into S3; returns its URI."""

    def put(content: bytes) -> str:
        s3_server.client().put_object(Bucket=bucket, Key="conf/run.yaml", Body=content)
        return f"s3://{bucket}/conf/run.yaml"

    return put


def test_options_are_read_from_s3(config_file):
    config = load_config(
        [*PATHS, "--config", config_file("batch_size: 3\nid_column: schlüssel\n".encode())], {}
    )
    assert (config.batch_size, config.id_column) == (3, "schlüssel")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"batch_sise: 3", "did you mean batch_size"),
        (b"\xff", "cannot be read"),
        (b"a: [", "not YAML"),
        (b"#" * (MAX_YAML_BYTES + 1), f"larger than {MAX_YAML_BYTES} bytes"),
    ],
)
def test_a_wrong_file_of_options_in_s3_is_named(config_file, content, word):
    uri = config_file(content)
    with pytest.raises(ConfigError, match=f"^--config {uri}: .*{word}"):
        load_config([*PATHS, "--config", uri], {})


def test_of_a_large_object_only_the_beginning_is_read(config_file):
    uri = config_file(b"#" * 50 * MAX_YAML_BYTES)
    before = s3_client.traffic.n_bytes
    with pytest.raises(ConfigError, match="larger than"):
        load_config([*PATHS, "--config", uri], {})
    assert s3_client.traffic.n_bytes - before <= MAX_YAML_BYTES + 1


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://{}/none.yaml", "cannot be read: .*: there is no such object"),
        ("s3://no-such-bucket/run.yaml", "cannot be read: .*: there is no"),
        ("s3://{}", "must be|cannot be read"),
        ("s3://key:word@{}/run.yaml", "without credentials"),
    ],
)
def test_a_file_of_options_that_is_not_in_s3_is_told(bucket, uri, words):
    with pytest.raises(ConfigError, match=f"^--config.*{words}") as caught:
        load_config([*PATHS, "--config", uri.format(bucket)], {})
    assert "\n" not in str(caught.value)
    assert "word@" not in str(caught.value)
