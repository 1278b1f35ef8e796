"""What a request to S3 asks for, told from its head; and the same request signed anew."""

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.http_messages import Head
from support.s3_store import Store

CONDITIONS = {"if-match", "if-none-match"}

# By method, whether a key is named, and what the query says.
OPERATIONS = {
    ("GET", True, ""): "GetObject",
    ("HEAD", True, ""): "HeadObject",
    ("PUT", True, ""): "PutObject",
    ("DELETE", True, ""): "DeleteObject",
    ("POST", True, "uploads"): "CreateMultipartUpload",
    ("PUT", True, "uploadId"): "UploadPart",
    ("GET", True, "uploadId"): "ListParts",
    ("POST", True, "uploadId"): "CompleteMultipartUpload",
    ("DELETE", True, "uploadId"): "AbortMultipartUpload",
    ("GET", False, ""): "ListObjects",
    ("GET", False, "uploads"): "ListMultipartUploads",
    ("POST", False, "delete"): "DeleteObjects",
    ("HEAD", False, ""): "HeadBucket",
    ("PUT", False, ""): "CreateBucket",
}
SAY_WHAT = ("uploads", "uploadId", "delete", "policy", "location", "acl", "tagging", "versions", "versioning")


def operation_of(head: Head) -> str:
    """Return S3's name of what is asked, such as GetObject; else the method and what the query says."""
    said = next((name for name in SAY_WHAT if name in head.query), "")
    if "x-amz-copy-source" in head.fields:
        return "UploadPartCopy" if said else "CopyObject"
    return OPERATIONS.get((head.method, bool(key_of(head)), said), f"{head.method} {said}".strip())


def key_of(head: Head) -> str:
    """Return what follows the bucket in the path; empty for a request about the bucket."""
    return head.path.lstrip("/").partition("/")[2]


def is_conditional_write(head: Head) -> bool:
    """Does it write only if something is so?"""
    return head.method in ("PUT", "POST", "DELETE") and not CONDITIONS.isdisjoint(head.fields)


def sign_without(head: Head, names: set[str], store: Store) -> Head:
    """Return a request without some of its headers, signed with the store's keys where it was signed.

    Bodies whose chunks are signed one by one cannot be had this way: their signatures begin with this one.
    """
    if "authorization" not in head.fields:
        return head.changed(names, {})
    _, _, signed = head.fields["authorization"].partition("SignedHeaders=")
    kept = [name for name in signed.partition(",")[0].split(";") if name not in names]
    fields = {name: head.fields[name] for name in kept}
    request = AWSRequest(head.method, store.endpoint + head.target, headers=fields)
    signer = S3SigV4Auth(Credentials(store.access_key, store.secret_key), "s3", store.region)
    signer.payload = lambda _: fields["x-amz-content-sha256"]  # of a body that is still to come
    signer.add_auth(request)
    new = {name: request.headers[name] for name in ("X-Amz-Date", "Authorization")}
    return head.changed(names | {"x-amz-date", "authorization"}, new)
