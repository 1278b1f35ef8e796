"""What goes wrong with S3 is told in one line: the path, what to check, and no secret."""

import random
import re
import socket
import threading
import time

import pytest

from spark_embed import storage
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.references import DownloadPolicy
from spark_embed.storage.s3.errors import (
    S3ChangedError,
    S3CredentialsError,
    S3DeniedError,
    S3Error,
    S3NotFoundError,
    S3PassingError,
    S3UnsupportedError,
    explain,
)

from support.bad_server import image_bytes
from support.s3_server import free_port
from support.url_rows import rows_of

# Whatever a run asks for first, or in the middle.
OPERATIONS = {
    "list": lambda root: storage.list_files(root, ""),
    "names": lambda root: storage.list_names(root),
    "exists": lambda root: storage.exists(f"{root}/a"),
    "is_folder": lambda root: storage.is_folder(root),
    "read": lambda root: storage.read_text(f"{root}/a"),
    "write": lambda root: storage.write_text(f"{root}/b", "1"),
    "create": lambda root: storage.create_text(f"{root}/b", "1"),
    "delete": lambda root: storage.delete(root),
    "delete_file": lambda root: storage.delete_file(f"{root}/a"),
    "copy": lambda root: storage.copy_tree(root, f"{root}2"),
    "image": lambda root: rows_of([f"{root}/a"], DownloadPolicy(), roots=(root,)),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS)

HEADS = {"exists", "copy"}
"""These begin with a HEAD, whose answer has no body and so no reason."""


@pytest.fixture
def root(s3_server, bucket) -> str:
    s3_server.direct.put_object(Bucket=bucket, Key="out/a", Body=image_bytes(7))
    return f"s3a://{bucket}/out"


@pytest.fixture(scope="module")
def nobody(s3_server):
    """The store as one sees it who has no rights."""
    return s3_server.make_user("MARKEDUSERWITHOUT", "MARKED-SECRET-OF-WITHOUT")


def told(operation: str, root: str) -> str:
    """Return the line that an operation ends with; nothing in it, or behind it, is a secret."""
    with pytest.raises(StorageError) as caught:
        OPERATIONS[operation](root)
    line = str(caught.value)
    assert line.startswith(root), line
    assert "\n" not in line
    assert len(line) < 500
    assert_no_secret(caught.value)
    return line


def assert_no_secret(exc: BaseException) -> None:
    """Look at all that it was raised from, too, which is in logs and tracebacks."""
    shown = [str(exc)]
    while exc := exc.__cause__:
        shown.append(str(exc))
    for secret in ("MARKED-", "AWS4-HMAC", "Signature="):
        assert secret not in " ".join(shown), shown


class TestWhoWeAre:
    @every_operation
    def test_a_key_that_nobody_has(self, s3_server, root, monkeypatch, operation):
        s3_server.seen_by("MARKEDNOBODY", "MARKED-SECRET").set_environment(monkeypatch)
        line = told(operation, root)
        assert "check the access key and its secret" in line
        assert "(InvalidAccessKeyId)" in line or operation in HEADS

    @every_operation
    def test_a_wrong_secret(self, s3_server, root, monkeypatch, operation):
        s3_server.seen_by(s3_server.access_key, "MARKED-WRONG").set_environment(monkeypatch)
        assert "check the access key and its secret" in told(operation, root)

    @every_operation
    def test_no_credentials(self, s3_server, bucket, root, monkeypatch, operation):
        s3_server.seen_by_nobody().set_environment(monkeypatch)
        line = told(operation, root)
        assert "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in line
        assert f"--anonymous_buckets {bucket} if it is public" in line

    def test_half_of_them(self, root, monkeypatch):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in told("list", root)

    def test_a_profile_that_is_not_there(self, root, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "staging")
        assert "no AWS credentials: The config profile (staging) could not be found" in told("list", root)

    @pytest.mark.parametrize("operation", ["list", "image"])
    @pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
    def test_one_with_a_line_break(self, root, monkeypatch, name, operation):
        """Of a file that it was read from; the HTTP library shows the header, and so the token."""
        monkeypatch.setenv(name, "MARKED-TOKEN\n")
        began = time.monotonic()
        assert "a character that cannot be sent, such as a line break" in told(operation, root)
        assert time.monotonic() - began < 5

    @every_operation
    def test_somebody_without_rights(self, nobody, root, monkeypatch, operation):
        nobody.set_environment(monkeypatch)
        if operation == "image":
            (row,) = OPERATIONS["image"](root)
            assert (row.code, row.detail) == ("forbidden", f"access denied (s3:GetObject): {root}/a")
        else:
            line = told(operation, root)
            assert "access denied" in line
            assert "s3:GetObject" in line

    def test_somebody_who_is_denied_a_prefix(self, s3_server, bucket, root, monkeypatch):
        user = s3_server.make_user("MARKEDUSEROFSOME", "MARKED-SECRET-OF-SOME")
        s3_server.allow(bucket, user.access_key)
        s3_server.deny(bucket, user.access_key, "out/")
        user.set_environment(monkeypatch)
        for operation in ("exists", "read", "write", "create", "delete", "delete_file"):
            assert "access denied" in told(operation, root)
        storage.write_text(f"s3a://{bucket}/elsewhere", "1")


class TestWhereItIs:
    @every_operation
    def test_a_bucket_that_is_missing(self, bucket, operation):
        if operation == "read":
            assert storage.read_text("s3a://no-such-b/out/a") is None
        else:
            line = told(operation, "s3a://no-such-b/out")
            assert "there is no bucket no-such-b; check its name, and the endpoint if it is not AWS" in line

    @pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {"image"}))
    def test_what_can_be_no_bucket(self, bucket, operation):
        assert "no!name is no name of a bucket" in told(operation, "s3a://no!name/out")

    @pytest.mark.parametrize("endpoint", ["localhost:9000", "nonsense", "http://", "http://a b:90"])
    def test_an_endpoint_that_is_no_address(self, s3_server, root, monkeypatch, endpoint):
        s3_server.seen_through(endpoint).set_environment(monkeypatch)
        assert "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is no http:// or https:// address" in told(
            "list", root
        )

    @every_operation
    def test_a_store_that_is_not_there(self, s3_server, root, monkeypatch, operation, short_s3_pauses):
        monkeypatch.setattr("spark_embed.storage.s3.patience.PATIENT_ATTEMPTS", 2)
        user_and_password = f"http://user:MARKED-PASSWORD@127.0.0.1:{free_port()}"
        s3_server.seen_through(user_and_password).set_environment(monkeypatch)
        line = told(operation, root)
        if operation == "image":
            assert line.endswith("ClientConnectorError, 2 times")
        else:
            assert "the store cannot be reached: " in line
            assert "check network and endpoint; when it is back, the same command goes on" in line

    def test_a_region_that_is_another_is_told(self, s3_server, root, monkeypatch):
        """The SDK would go where the answer says, and Spark's S3A would not."""
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-west-2")
        for operation in ("list", "names", "is_folder", "read", "image"):
            assert f"is in another region: --aws_region {s3_server.region}" in told(operation, root)


class TestImpatience:
    def test_ends_within_seconds_where_nobody_listens(self, s3_server, root, monkeypatch):
        pauses = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
        s3_server.seen_through(f"http://127.0.0.1:{free_port()}").set_environment(monkeypatch)
        with storage.impatient():
            told("list", root)
        assert pauses == pytest.approx([0.3, 0.6, 1.2, 2.4])
        told("list", root)
        assert pauses[4:] == pytest.approx([0.3, 0.6, 1.2, 2.4, 4.8, 9.6, 19.2, 20, 20, 20, 20])

    def test_is_of_one_thread_and_ends(self, s3_server, root, bad_s3, short_s3_pauses):
        bad_s3.rate, bad_s3.faults = 1.0, ("slow_down",)

        def n_requests() -> int:
            bad_s3.asked.clear()
            told("list", root)
            return len(bad_s3.asked)

        with storage.impatient():
            assert n_requests() == 5
            with storage.impatient():
                assert n_requests() == 5
            assert n_requests() == 5
            counted = []
            thread = threading.Thread(target=lambda: counted.append(n_requests()))
            thread.start()
            thread.join()
            assert counted == [12]
        assert n_requests() == 12

    def test_does_not_wait_long_for_who_listens_and_is_silent(self, s3_server, root, monkeypatch):
        """As a firewall is."""
        from spark_embed.storage.s3.client import client_for

        with socket.create_server(("127.0.0.1", 0)) as listener:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listener.getsockname()[1]}")
            with storage.impatient():
                config = client_for("b").meta.config
        assert (config.connect_timeout, config.read_timeout) == (4, 10)


def answer(status: int, code: str, message: str = "", headers: dict | None = None, **more) -> dict:
    """Return an error answer as the SDK parses it."""
    return {
        "Error": {"Code": code, "Message": message, **more},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }


# As AWS documents and gives them.
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
ANSWERS = [
    (
        answer(400, "ExpiredToken", "The provided token has expired."),
        S3CredentialsError,
        "have expired .*; renew them",
    ),
    (answer(400, "InvalidToken", "The provided token is malformed"), S3CredentialsError, "renew them"),
    (answer(400, "TokenRefreshRequired"), S3CredentialsError, "renew them"),
    (answer(403, "InvalidAccessKeyId", AWSAccessKeyId="AKIA"), S3CredentialsError, "check the access key"),
    (
        answer(
            403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature"
        ),
        S3CredentialsError,
        "check the access key and its secret",
    ),
    (answer(403, "RequestTimeTooSkewed"), S3CredentialsError, "clock is wrong"),
    (answer(403, "AccessDenied", "Access Denied"), S3DeniedError, "policy"),
    (answer(403, "AllAccessDisabled"), S3DeniedError, "policy"),
    (answer(403, "403", "Forbidden"), S3DeniedError, "does not say why; .*key"),
    (answer(400, "400", "Bad Request"), S3CredentialsError, "does not say why; .*expired"),
    (answer(403, "InvalidObjectState"), S3Error, "archive"),
    (
        answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-central-1"}),
        S3Error,
        "--aws_region eu-central-1",
    ),
    (
        answer(301, "301", headers={"x-amz-bucket-region": "eu-central-1"}),
        S3Error,
        "--aws_region eu-central-1",
    ),
    (answer(400, "AuthorizationHeaderMalformed", Region="ap-south-1"), S3Error, "--aws_region ap-south-1"),
    (answer(400, "IllegalLocationConstraintException"), S3Error, "give --aws_region"),
    (answer(404, "NoSuchBucket", BucketName="b"), S3NotFoundError, "there is no bucket b"),
    (answer(404, "NoSuchKey", Key="k"), S3NotFoundError, "no such object"),
    (answer(404, "404", "Not Found"), S3NotFoundError, "no such object"),
    (answer(412, "PreconditionFailed"), S3ChangedError, "changed"),
    (answer(412, "412"), S3ChangedError, "changed"),
    (answer(409, "ConditionalRequestConflict"), S3ChangedError, "changed"),
    (
        answer(501, "NotImplemented", "A header you provided implies functionality"),
        S3UnsupportedError,
        "know",
    ),
    (answer(503, "SlowDown", "Please reduce your request rate."), S3PassingError, "SlowDown: Please reduce"),
    (
        answer(500, "InternalError", "We encountered an\n internal error."),
        S3PassingError,
        "an internal error",
    ),
    (answer(503, "503"), S3PassingError, "503"),
    (answer(400, "RequestTimeout"), S3PassingError, "RequestTimeout"),
    (
        answer(400, "KeyTooLongError", "Your key is too long"),
        S3Error,
        "KeyTooLongError: Your key is too long",
    ),
    (answer(409, "InvalidBucketState", "x" * 5000), S3Error, "x{200}$"),
    ({}, S3Error, "the store answered"),
]


@pytest.mark.parametrize(("response", "kind", "text"), ANSWERS, ids=lambda value: str(value)[:40])
def test_answers_of_aws(response, kind, text):
    error = explain(response, "s3a://b/k")
    assert type(error) is kind
    assert "\n" not in str(error)
    assert re.search(text, str(error))


def test_errors_are_those_of_the_system_too():
    """Who catches what a disk raises catches them."""
    assert issubclass(S3NotFoundError, FileNotFoundError)
    assert issubclass(S3DeniedError, PermissionError)
    assert issubclass(S3Error, OSError)
