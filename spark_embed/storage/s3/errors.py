"""What the SDK raises -> OSErrors that say, in one line, what to check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spark_embed.errors import one_line
from spark_embed.storage.s3.patience import is_busy, is_passing


class S3Error(OSError):
    """A request failed."""


class S3PassingError(S3Error):
    """The store was away, or too busy, for as long as we were ready to try: it may succeed later."""


class S3BrokenOffError(S3PassingError):
    """An answer began and did not come to its end; unlike what the SDK gives up on, it was tried once."""


class S3NotFoundError(S3Error, FileNotFoundError):
    """There is no such object."""


class S3DeniedError(S3Error, PermissionError):
    """We are not who may do that."""


class S3CredentialsError(S3DeniedError):
    """The store does not know who we are, or not any more, whatever we ask for."""


class S3ChangedError(S3Error):
    """The object is not the one that was asked for (If-Match), or there is one already (If-None-Match)."""


class S3UnsupportedError(S3Error):
    """The store does not know this kind of request."""


_BAD_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "InvalidClientTokenId"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"}
REFUSED_KEYS = _BAD_KEYS | _EXPIRED
WRONG_REGION = {
    *("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"),
}
_CHANGED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
# The last one is of older stores, which want another checksum of a list of keys than the SDK sends.
_UNSUPPORTED = {"NotImplemented", "501", "UnsupportedOperation", "MissingContentMD5"}


@contextmanager
def as_s3_error(path: str) -> Iterator[None]:
    """Turn what the SDK raises in a `with` block about `path` into an `S3Error`.

    Raises:
        S3Error: with what to check.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as exc:
        raise explain(exc.response, path) from exc
    except BotoCoreError as exc:
        # Not `from exc`: its text, which a traceback shows, may hold a token or the password of an address.
        raise _explain_local(exc, path) from None
    except (HTTPError, ResponseParserError) as exc:  # what the SDK lets through while it reads an answer
        raise S3BrokenOffError(f"the answer broke off: {without_password(exc)}") from exc


NO_REASON = (
    "access denied, and the store does not say why; check the access key and its secret, whether "
    "they have expired, --aws_region, and the policy of the bucket (s3:ListBucket, s3:GetObject)"
)
"""What is wrong where a store refuses a HEAD, whose answer has no body."""


@contextmanager
def path_in_error(path: str) -> Iterator[None]:
    """Let an `S3Error` of a `with` block name the object, as the system's errors name the file.

    Who reads it may have it from somebody else, and a wave that fails is searched for the names of shards.
    """
    try:
        yield
    except S3Error as exc:
        raise type(exc)(f"{path}: {exc}") from exc


def explain(response: dict[str, Any], path: str) -> S3Error:
    """Return what to raise for an error that the store answered.

    Args:
        response: as the SDK parses it.
        path: of what the request was about.
    """
    error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, headers = str(error.get("Code", "")), metadata.get("HTTPHeaders", {})
    bucket = path.partition("://")[2].partition("/")[0]
    status = str(metadata.get("HTTPStatusCode", ""))
    if code in ("NoSuchKey", "404", "NotFound", "NoSuchUpload"):
        return S3NotFoundError("there is no such object")
    if code == "NoSuchBucket":
        return S3NotFoundError(
            f"there is no bucket {bucket}; check its name, and the endpoint if it is not AWS"
        )
    if code in _CHANGED:
        return S3ChangedError("it has changed meanwhile")
    if code in REFUSED_KEYS:
        return S3CredentialsError(said_of_keys(code))
    if code in WRONG_REGION or status == "301":
        there = headers.get("x-amz-bucket-region") or error.get("Region")
        return S3Error(
            f"the bucket {bucket} is in another region"
            + (f": --aws_region {there}" if there else "; give --aws_region")
        )
    if code == "RequestTimeTooSkewed":
        return S3CredentialsError("this machine's clock is wrong by more than 15 minutes; set it")
    if code == "InvalidObjectState":
        return S3Error("the object is in an archive (Glacier); restore it first")
    if code in ("400", "403") and status == code:  # to a HEAD, whose answer has no body
        denied = S3CredentialsError if code == "400" else S3DeniedError  # AWS answers 400 to expired keys
        return denied(NO_REASON)
    if code in _UNSUPPORTED:
        return S3UnsupportedError("the store does not know this kind of request")
    if status == "403" or code in ("AccessDenied", "403"):
        return S3DeniedError(
            "access denied; check the policy of the bucket and of who you are "
            "(s3:ListBucket, s3:GetObject; for the output s3:PutObject, s3:DeleteObject, too)"
        )
    kind = S3PassingError if is_busy(int(status or 0), code) else S3Error
    return kind(f"the store answered {code or status}: {one_line(error.get('Message', ''), 200)}")


def said_of_keys(code: str) -> str:
    """Return what to say of one of `REFUSED_KEYS`."""
    if code in _EXPIRED:
        return f"the credentials have expired ({code}); renew them and start again: it goes on"
    return f"the store does not accept these credentials ({code}); check the access key and its secret"


def _explain_local(exc: Exception, path: str) -> S3Error:
    """Return what to raise for an error before, or without, an answer of the store."""
    from botocore import exceptions

    bucket = path.partition("://")[2].partition("/")[0]
    if isinstance(exc, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return S3CredentialsError(
            "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run "
            f"where a role is; --anonymous_buckets {bucket} if it is public"
        )
    if isinstance(
        exc,
        exceptions.ProfileNotFound
        | exceptions.CredentialRetrievalError
        | exceptions.TokenRetrievalError
        | exceptions.SSOError
        | exceptions.ConfigParseError,
    ):
        return S3CredentialsError(f"no AWS credentials: {without_password(exc)}")
    if isinstance(exc, exceptions.NoRegionError):
        return S3Error("which region? give --aws_region, or set AWS_REGION")
    if isinstance(exc, exceptions.ParamValidationError):
        return S3Error(
            f"{bucket} is no name of a bucket, or the key is not one: {without_password(exc)[:100]}"
        )
    if is_passing(exc):
        return S3PassingError(
            f"the store cannot be reached: {without_password(exc)}; check network and endpoint; "
            "when it is back, the same command goes on"
        )
    if isinstance(exc, exceptions.HTTPClientError):  # its text has the header, and so the key or the token
        return unsendable()
    return S3Error(without_password(exc))


STORE_FAILURES = (S3PassingError, S3BrokenOffError, S3CredentialsError)


def is_store_failure(exc: BaseException | None) -> bool:
    """Say whether an error, or what it was raised from, is about the whole store, not about a file in it."""
    while exc is not None:
        if isinstance(exc, STORE_FAILURES):
            return True
        exc = exc.__cause__
    return False


def unsendable() -> S3Error:
    """Return what to raise where a request would hold what none may; not what that is: it may be a secret."""
    return S3CredentialsError(
        "AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN or the endpoint holds a character that cannot be sent, "
        "such as a line break; set them without it"
    )


def without_password(exc: BaseException) -> str:
    """Return an error's text as one line, without the password of an address."""
    return one_line(re.sub(r"//[^/@\s]*@", "//", str(exc)) or type(exc).__name__)
