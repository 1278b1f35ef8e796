"""What a path or a URI names; the only room that takes one apart. Touches no disk but to resolve links.

A path on this machine stays as it is, as a file: URI loses its scheme. One in S3 is a URI everywhere, with
the scheme by which Spark reads it: s3a://bucket/key, nothing percent-encoded, because S3's keys hold any
character.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import quote, unquote, urlsplit

from spark_embed.errors import ConfigError
from spark_embed.platforms import platform

_S3_SCHEMES = ("s3", "s3a", "s3n")
_TO_ESCAPE = re.compile(r"[\udc80-\udcff]|\\(?=x[0-9a-fA-F]{2})")  # os.fsdecode's, and a \x that is there

# A name may hold a colon: only with a slash after it, or of these, is what stands before it a scheme.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/|(data|file|ipfs|ipns):", re.IGNORECASE | re.ASCII)


def uri_scheme(uri: str) -> str:
    """Return the scheme of `uri` in lower case, or '' for a plain path."""
    found = _SCHEME.match(uri)
    return (found[1] or found[2]).lower() if found else ""


def is_s3(uri: str) -> bool:
    """Say whether this is in S3, by whatever of its schemes."""
    return uri_scheme(uri) in _S3_SCHEMES


def split_s3(uri: str) -> tuple[str, str]:
    """Return the bucket and the key of a URI in S3, the key as it is: to S3 `a`, `/a` and `a/` are three."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def spark_scheme() -> str:
    """Return the scheme by which this Spark reads S3: the platform's own on EMR and Databricks.

    Elsewhere s3:// is nobody's, and a committer that is set for s3a:// would not be used for it.
    """
    return "s3" if platform() else "s3a"


def local_path(uri: str) -> str | None:
    """Return the path that a plain path or a file: URI names, None for any other scheme or host."""
    scheme = uri_scheme(uri)
    if scheme == "":
        return uri
    if scheme != "file":
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that are no IPv6 address
        return None
    return unquote(parts.path, errors="surrogateescape") if parts.netloc in ("", "localhost") else None


def spark_path(uri: str) -> str:
    """Return the path that Spark's `_metadata.file_path` names: a URI that is percent-encoded, in S3 too.

    Raises:
        OSError: neither local nor in S3.
    """
    path = unquote(uri) if is_s3(uri) else local_path(uri)
    if path is None:
        raise OSError(f"only local files and S3 can be read by the worker itself: {uri}")
    return path


def spark_uri(path: str) -> str:
    """Return a path as Spark's `_metadata.file_path` has it, as far as `spark_path` needs it."""
    return quote(path, safe="/:") if is_s3(path) else path


def hadoop_path(path: str) -> str:
    """Return a path as Spark is given it, to read or to write: nothing encoded, as Hadoop's Path takes it.

    One on this machine has its scheme: without one Spark looks in the file system that fs.defaultFS names, on
    YARN the cluster's HDFS. Databricks mounts its volumes under plain paths, for Spark as for everybody.
    """
    return path if is_s3(path) or platform() == "databricks" else f"file://{path}"


def joined_path(folder: str, path: str) -> str:
    """Return `path` as it looks from `folder`; an absolute one, or a URI, as it is. Free of `..` in S3."""
    if uri_scheme(path):
        return path
    if not is_s3(folder):
        return os.path.join(folder, path)
    bucket, key = split_s3(folder)
    inside = posixpath.normpath(posixpath.join("/", key, path)).lstrip("/")
    return f"{uri_scheme(folder)}://{bucket}/{inside}"


def shown_path(path: str) -> str:
    r"""Return a path as people see it, which is text: a byte that is no UTF-8 as \xe9.

    Nothing is lost: a backslash that would look like such a byte is \x5c, so no two paths are shown alike.
    """
    return _TO_ESCAPE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", path)


def parent_folder(path: str) -> str:
    """Return the folder of the file at `path`."""
    return os.path.dirname(path)


def folder_path(uri: str, flag: str) -> str:
    """Return the absolute path, or the URI in S3, of the folder that an option names; it need not exist.

    Args:
        uri: the option's value.
        flag: the option, for messages.

    Raises:
        ConfigError: no path at all, or a scheme that is not read.
    """
    if is_s3(uri):
        return _s3_folder(uri, flag)
    path = local_path(uri)
    if path is None:
        raise ConfigError(f"{flag} {uri}: {_refusal(uri)}")
    if not path:
        raise ConfigError(f"{flag} {uri!r}: names no folder")
    return os.path.abspath(os.path.expanduser(path))


def _refusal(uri: str) -> str:
    """Return why a URI of another kind names no folder, and what to give instead."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "dbfs":
        path = "/" + rest.lstrip("/")
        inside = path if path.startswith("/Volumes/") else f"/dbfs{path}"
        return f"give the path by which Databricks shows it as a folder, {inside}"
    which = "another machine's file:" if scheme.lower() == "file" else f"{scheme}:"
    return f"{which} is not read; only local paths (a mounted store's, too), file: and s3:// (or s3a://) are"


def _s3_folder(uri: str, flag: str) -> str:
    bucket, key = split_s3(uri.rstrip("/"))
    if not bucket or "@" in bucket:
        raise ConfigError(f"{flag}: must be s3://bucket/folder, without credentials in it")
    if odd := [name for name in key.split("/") if name in (".", "..") or (key and not name)]:
        raise ConfigError(f"{flag} {uri}: {odd[0]!r} is no folder's name in S3")
    return f"{spark_scheme()}://{bucket}/{key}" if key else f"{spark_scheme()}://{bucket}"


def is_below(path: str, folder: str) -> bool:
    """Say whether `path` is `folder` or inside it, once symbolic links are resolved."""
    if is_s3(path) or is_s3(folder):
        return is_inside(path, folder)
    return is_inside(os.path.realpath(path), os.path.realpath(folder))


def is_inside(path: str, folder: str) -> bool:
    """Say the same of two paths that are absolute and free of symbolic links, without looking at the disk."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def is_shown(path: str) -> bool:
    """Say whether Spark would read a file there: no name in the path begins with _ (but _col=value may)."""
    return all("=" in name or not name.startswith("_") for name in path.split("/"))
