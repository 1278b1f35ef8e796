"""A store that fails is never taken for a file that is broken: nothing is left out, and the line says so."""

import traceback
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from spark_embed import storage
from spark_embed.datasets.index import make as index
from spark_embed.datasets.lists import column_names
from spark_embed.datasets.shards import open_shards
from spark_embed.errors import ModelError, StorageError
from spark_embed.output.folder import Output
from spark_embed.output.records import Counted, Marker
from spark_embed.output.state import is_whole
from spark_embed.run.wave_failure import PassingStorageError, UnreadableShardsError, explain_failure
from spark_embed.storage.s3.errors import S3BrokenOffError, S3CredentialsError, S3Error, S3PassingError
from spark_embed.storage.s3.java_errors import store_failure


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
        S3BrokenOffError("s3a://bucket/in/a.parquet: the answer broke off: 7 bytes read"),
        S3CredentialsError(
            "s3a://bucket/in/a.parquet: the credentials have expired (ExpiredToken); renew them"
        ),
    ],
)
@pytest.mark.parametrize("wrapped", [None, "s3a://bucket/in/a.parquet: row 7 cannot be read"])
def test_a_wave_that_a_store_made_fail_leaves_no_shard_out(error, wrapped):
    told = explain(traceback_of(error, wrapped), "a.parquet")
    assert isinstance(told, StorageError)
    assert isinstance(told, PassingStorageError) == isinstance(error, S3PassingError)
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


SPARK = """An error occurred while calling o86.parquet.
: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file \
s3a://bucket/in/a.parquet.  SQLSTATE: KD001
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.cannotReadFilesError(QueryExecutionErrors.scala:904)
\tat java.base/java.lang.Thread.run(Thread.java:840)
\tSuppressed: org.apache.spark.util.Utils$OriginalTryStackTraceException: Full stacktrace of original caller
\t\tat org.apache.hadoop.fs.s3a.S3AInputStream.readVectored(S3AInputStream.java:883)
\tCaused by: org.apache.hadoop.fs.s3a.AWSClientIOException: of what was suppressed
"""
IN_S3A = """\tat software.amazon.awssdk.core.io.SdkFilterInputStream.read(SdkFilterInputStream.java:66)
\tat org.apache.hadoop.fs.s3a.S3AInputStream.readByteArray(S3AInputStream.java:1126)
\tat org.apache.parquet.hadoop.ParquetFileReader.readAllPartsVectoredOrNormal(ParquetFileReader.java:1)
"""
IN_JDK = """\tat java.base/sun.nio.ch.SocketChannelImpl.read(SocketChannelImpl.java:426)
\tat java.base/java.io.FilterInputStream.read(FilterInputStream.java:132)
"""
IN_SDK_1 = """\tat com.amazonaws.internal.SdkFilterInputStream.read(SdkFilterInputStream.java:90)
"""
IN_PARQUET = """\tat org.apache.parquet.bytes.BytesInput.toByteArray(BytesInput.java:1)
\tat org.apache.hadoop.fs.s3a.S3AInputStream.lazySeek(S3AInputStream.java:1)
"""


def caused_by(thrown: str, *frames: str) -> str:
    return f"Caused by: {thrown}\n" + "".join(frames)


@pytest.mark.parametrize(
    "cause",
    [
        # What was met with an answer that ends before its Content-Length.
        caused_by("org.apache.http.ConnectionClosedException: Premature end of Content-Length", IN_S3A),
        caused_by("org.apache.http.TruncatedChunkException: Truncated chunk", IN_JDK),
        caused_by("shaded.x.org.apache.http.MalformedChunkCodingException: CRLF expected"),
        caused_by("javax.net.ssl.SSLException: Connection reset", IN_JDK),
        caused_by("java.net.SocketException: Connection reset", IN_JDK, IN_S3A),
        caused_by("java.net.SocketTimeoutException: Read timed out", IN_JDK, IN_SDK_1),
        caused_by("java.io.EOFException: Unexpected EOF", IN_JDK, IN_S3A),
        caused_by("java.io.IOException: Connection reset by peer", IN_JDK, IN_S3A),
        caused_by("io.netty.handler.timeout.ReadTimeoutException", IN_S3A),
        caused_by("org.apache.hadoop.fs.s3a.HttpChannelEOFException: read on s3a://bucket/in/a.parquet"),
        caused_by("org.apache.hadoop.fs.s3a.AWSApiCallTimeoutException: getObject"),
        caused_by("org.apache.hadoop.fs.s3a.AWSStatus500Exception: Status Code: 503"),
        caused_by("org.apache.hadoop.fs.s3a.SomethingOfNextYearException: x"),
        caused_by("software.amazon.awssdk.core.exception.Crc32MismatchException: x"),
        caused_by("com.amazonaws.SdkClientException: Data read has a different length than the expected"),
        caused_by("com.amazonaws.AbortedException"),
        # Nothing but the JDK's frames where it was thrown; who had called says the next.
        caused_by("org.apache.hadoop.fs.s3a.AWSClientIOException: read")
        + caused_by("java.net.ConnectException: Connection refused", IN_JDK),
        caused_by("org.apache.parquet.io.ParquetDecodingException: Can not read value at 1 in block 0")
        + caused_by("java.net.SocketException: Broken pipe", IN_S3A),
    ],
)
def test_every_error_of_the_transport_is_the_store_s_and_passes(cause):
    told = explain(SPARK + cause, "a.parquet")
    assert isinstance(told, PassingStorageError), told
    assert "what was suppressed" not in str(told)
    # As Spark says it of a job that has no one to throw it to: in the message, behind the task's name.
    lost = (
        SPARK.split("\n")[0] + "\n: org.apache.spark.SparkException: Job aborted: Lost task 1.3 in stage 2.0"
    )
    assert store_failure(f"{lost} (TID 3) (host executor 1): {cause.removeprefix('Caused by: ')}").is_passing


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "org.apache.hadoop.fs.s3a.AWSBadRequestException: open: S3Exception: The provided token has "
            "expired (Service: S3, Status Code: 400):ExpiredToken",
            "the credentials have expired (ExpiredToken)",
        ),
        (
            "java.nio.file.AccessDeniedException: s3a://bucket/in/a.parquet: InvalidAccessKeyId",
            "the store does not accept these credentials (InvalidAccessKeyId)",
        ),
        (
            "org.apache.hadoop.fs.s3a.auth.NoAwsCredentialsException: no keys",
            "NoAwsCredentialsException: no keys",
        ),
        ("org.apache.hadoop.fs.s3a.UnknownStoreException: bucket", "UnknownStoreException: bucket"),
        *(  # of a HEAD, whose answer has no body
            (
                "org.apache.hadoop.fs.s3a.AWSBadRequestException: getFileStatus: software.amazon.awssdk."
                f"services.s3.model.S3Exception: {told}(Service: S3, Status Code: 400, Request ID: null)",
                "access denied, and the store does not say why; check the access key and its secret, ",
            )
            for told in ("Bad Request ", "null ", "")
        ),
    ],
)
def test_what_does_not_pass_is_not_tried_again(cause, said):
    told = explain(SPARK + caused_by(cause, IN_S3A), "a.parquet")
    assert type(told) is StorageError
    assert str(told).startswith(f"S3 failed: {said}")


@pytest.mark.parametrize(
    "cause",
    [
        caused_by("org.apache.parquet.io.ParquetDecodingException: could not decode"),
        caused_by("java.io.IOException: could not decompress page", IN_PARQUET),
        caused_by(
            "java.io.FileNotFoundException: No such file or directory: s3a://bucket/in/a.parquet", IN_S3A
        ),
        caused_by("java.nio.file.AccessDeniedException: s3a://bucket/in/a.parquet: getObject", IN_S3A)
        + caused_by("software.amazon.awssdk.services.s3.model.S3Exception: (Status Code: 403)"),
        caused_by("org.apache.hadoop.fs.s3a.RemoteFileChangedException: open `s3a://bucket/in/a.parquet'"),
        caused_by("java.io.EOFException: Attempted to seek or read past the end of the file: 9", IN_S3A),
    ],
)
def test_what_is_wrong_with_one_file_is_not_the_store_s(cause):
    told = explain(SPARK + cause, "a.parquet")
    assert isinstance(told, UnreadableShardsError)
    (bad,) = told.bad
    assert bad.reason.startswith("s3a://bucket/in/a.parquet: cannot be read: ")
    assert "SQLSTATE" not in bad.reason


def test_a_file_that_a_wave_was_writing_is_no_shard():
    """Who ends an upload and hears no answer asks again, and finds none."""
    lost = caused_by("java.io.FileNotFoundException: Aborting multipart upload on out/part-0.parquet", IN_S3A)
    cause = caused_by("software.amazon.awssdk.services.s3.model.NoSuchUploadException: (Status Code: 404)")
    told = explain(lost.removeprefix("Caused by") + cause, "a.parquet")
    assert isinstance(told, PassingStorageError)


def test_a_line_of_code_is_no_failure():
    text = traceback_of(ModelError("no model")) + "\n    self._credentials = find_credentials(bucket)"
    assert store_failure(text) is None


def test_a_footer_that_the_store_does_not_give_is_no_bad_shard(away, s3_root):
    path = away("a.parquet", b"PAR1")
    file = storage.StoredFile("a.parquet", 4)
    catalogue = SimpleNamespace(entries={"a.parquet": SimpleNamespace(group_rows=None)})
    with pytest.raises(
        StorageError, match=f"{path}: cannot be read as parquet: .*the store cannot be reached"
    ):
        open_shards(s3_root, [file], catalogue)


def test_credentials_that_expire_are_not_told_as_a_folder_that_cannot_be_deleted(s3_root, monkeypatch):
    answer = {"Error": {"Code": "ExpiredToken"}, "ResponseMetadata": {"HTTPStatusCode": 400}}

    def expired(*_, **__):
        raise ClientError(answer, "ListObjectsV2")

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", expired)
    with pytest.raises(
        StorageError, match=f"^{s3_root}: the credentials have expired .ExpiredToken.; renew them"
    ):
        storage.delete(s3_root)


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
        index._try_index(
            (SimpleNamespace(layout="test", max_rows=None, columns=()), str(tmp_path / "index.parquet"))
        )


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
