"""A store that fails is never taken for a file that is broken: nothing is left out, and the line says so."""

import traceback
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from spark_embed import storage
from spark_embed.datasets.index import make as index
from spark_embed.datasets.lists import column_names
from spark_embed.datasets.shards import open_shards
from spark_embed.errors import ModelError, StorageError
from spark_embed.output.folder import Output
from spark_embed.output.records import Counted, Marker
from spark_embed.output.state import is_whole
from spark_embed.run.wave_failure import UnreadableShardsError, explain_failure
from spark_embed.storage.s3.errors import S3CredentialsError, S3Error, S3PassingError, store_failure


@pytest.fixture
def away(bad_s3, s3_root, monkeypatch):
    """Put a file into a bucket, whose server is away then; returns its path."""
    monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)

    def put(name: str, data: bytes) -> str:
        storage.write_text(f"{s3_root}/{name}", data.decode("latin-1"))
        bad_s3.down()
        return f"{s3_root}/{name}"

    return put


def traceback_of(error: Exception, wrapped: str | None = None) -> str:
    """Return what Spark shows of an error in a Python worker."""
    if wrapped is not None:
        outer = StorageError(wrapped)
        outer.__cause__ = error
        error = outer
    return "org.apache.spark.api.python.PythonException: " + "".join(traceback.format_exception(error))


@dataclass(frozen=True)
class OneShard:
    """What an explanation looks at of a shard."""

    name: str

    @property
    def path(self) -> str:
        return self.name


def explain(text: str, *names: str) -> Exception:
    source = SimpleNamespace(folder="s3a://bucket/in", root="s3a://bucket/in")
    plan = SimpleNamespace(source=source, preflight=SimpleNamespace(model={"embedding_dim": 4}))
    units = [SimpleNamespace(shard=OneShard(name)) for name in names]
    return explain_failure(RuntimeError(text), plan, "/data/out", units, 10)


@pytest.mark.parametrize(
    "error",
    [
        S3PassingError("s3a://bucket/in/a.parquet: the store answered SlowDown: Please reduce"),
        S3CredentialsError(
            "s3a://bucket/in/a.parquet: the credentials have expired (ExpiredToken); renew them"
        ),
    ],
)
@pytest.mark.parametrize("wrapped", [None, "s3a://bucket/in/a.parquet: row 7 cannot be read"])
def test_a_wave_that_a_store_made_fail_leaves_no_shard_out(error, wrapped):
    told = explain(traceback_of(error, wrapped), "a.parquet")
    assert type(told) is StorageError
    assert str(told).startswith(f"S3 failed: {error}")
    assert str(told).endswith("start the same command again, and it goes on")


def test_spark_s_own_words_for_it_are_known():
    text = (
        "java.io.IOException\nCaused by: org.apache.hadoop.fs.s3a.AWSNoResponseException: s3a://bucket/in/a"
    )
    assert "AWSNoResponseException" in str(explain(text, "a"))


@pytest.mark.parametrize(
    "error", [S3Error("s3a://bucket/in/a.tar: it has changed"), OSError("s3a://bucket/in/a.tar: broken")]
)
def test_what_is_wrong_with_a_shard_is_said_of_it(error):
    told = explain(traceback_of(error), "a.tar", "b.tar")
    assert isinstance(told, UnreadableShardsError)
    (bad,) = told.bad
    assert bad.name == "a.tar"
    assert bad.reason.endswith(str(error))


@pytest.mark.parametrize("name", ["00000", "00000/0001.jp"])
def test_a_failure_over_a_file_is_not_one_over_a_folder_or_another_file(name):
    told = explain(traceback_of(OSError("s3a://bucket/in/00000/0001.jpg: broken")), name)
    assert isinstance(told, RuntimeError)


def test_a_line_of_code_is_no_failure():
    text = traceback_of(ModelError("no model")) + "\n    self._credentials = find_credentials(bucket)"
    assert store_failure(text) is None


def test_a_footer_that_the_store_does_not_give_is_no_bad_shard(away, s3_root):
    path = away("a.parquet", b"PAR1")
    file = storage.StoredFile("a.parquet", 4)
    catalogue = SimpleNamespace(entries={"a.parquet": SimpleNamespace(odd_pages=None)})
    with pytest.raises(
        StorageError, match=f"{path}: cannot be read as parquet: .*the store cannot be reached"
    ):
        open_shards(s3_root, [file], catalogue)


def test_a_list_that_the_store_does_not_give_is_not_left_out(away):
    path = away("a.csv", b"url\nx.jpg\n")
    with pytest.raises(StorageError, match=f"{path}: cannot be read: .*the store cannot be reached"):
        column_names(path, "url")


def test_a_tar_that_the_store_does_not_give_is_no_bad_shard(away, monkeypatch, tmp_path):
    path = away("a.tar", b"tar")

    def read(task):
        with storage.open_binary(path) as file:
            yield file.read()

    def read_wrapped(task, not_used):
        try:
            yield from read(task)
        except OSError as exc:
            raise StorageError(f"{path}: cannot be read: {exc}") from exc

    monkeypatch.setitem(index._MAKERS, "test", read_wrapped)
    with pytest.raises(StorageError, match="the store cannot be reached"):
        index._try_index((SimpleNamespace(layout="test", max_rows=None), str(tmp_path / "index.parquet")))


def test_a_wave_that_the_store_does_not_list_is_not_done_again(away, s3_root):
    away("a", b"")
    marker = Marker(
        run_id="r",
        wave="w",
        kind="embed",
        units=(),
        files={"part.parquet": 1},
        counted=Counted(
            n_rows=0, n_errors_by_code={}, n_tasks=0, n_model_loads=0, stage_s={}, batch_limit=None
        ),
        embed_s=0.0,
        finished_at="",
    )
    with pytest.raises(StorageError, match="the store cannot be reached"):
        is_whole(Output(s3_root), marker)
