"""Which jars give this Spark's JVM an S3 file system; driver only, and nothing is fetched here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spark_embed.errors import ConfigError

CLASS_PATH = "SPARK_DIST_CLASSPATH"
"""Environment variable: what Spark's launcher puts at the end of the class path.

There it shadows nothing, and the archive of classes (`spark_embed.spark.session.class_archive`) still fits.
"""

# By the Hadoop inside Spark, the more special first: the AWS SDK of the slim set. Hadoop 3.3 needs the first
# SDK, which hadoop-aws brings whole. Hadoop 3.4.1 was built with SDK 2.24.6 and 3.5.0 with 2.35.4: these are
# their next patches of which every part is published.
_SDK_VERSIONS = {"3.4.1": "2.24.8", "3.4": "2.29.52", "3.5": "2.35.5", "3.3": None}

# The committers change little: a release of the same or an earlier Spark, which registries have had for long.
_CLOUD_VERSIONS = {"3.5": "3.5.8", "4.0": "4.0.2", "4.1": "4.1.2", "4.2": "4.1.2", "4.3": "4.1.2"}

# sts is for web identity (EKS) and assumed roles, sso and ssooidc for profiles of `aws sso login`.
_SDK_PARTS = ("s3", "s3-transfer-manager", "apache-client", "netty-nio-client", "sts", "sso", "ssooidc")

# Other clouds, and what Spark brings itself, in whatever version it does.
_EXCLUDES = (
    "org.apache.hadoop:hadoop-c*",
    "org.apache.hadoop:hadoop-azure*",
    "org.apache.hadoop:hadoop-huaweicloud",
    "com.google.cloud.bigdataoss:*",
    "com.squareup.*:*",
    "com.fasterxml.jackson.*:*",
    "commons-codec:*",
    "io.netty:*",
    "joda-time:*",
    "org.apache.httpcomponents:*",
    "org.eclipse.jetty:*",
    "org.slf4j:*",
    "org.wildfly.openssl:*",
)
_BUNDLE = "software.amazon.awssdk:bundle"  # the whole SDK: 600 MB and more


@dataclass(frozen=True)
class Packages:
    """Maven coordinates: what to fetch, and which of its dependencies to leave out."""

    packages: tuple[str, ...]
    excludes: tuple[str, ...]


def spark_home() -> str:
    """Return the folder of the Spark that pyspark starts."""
    from pyspark.find_spark_home import _find_spark_home

    return str(_find_spark_home())  # type: ignore[no-untyped-call]


def find_packages(home: str, kind: Literal["slim", "full"]) -> Packages:
    """Return the packages that give the Spark in the folder `home` its S3 file system and committers.

    Raises:
        ConfigError: no Spark there, or one with a Hadoop that is not known here.
    """
    jars = os.path.join(home, "jars")
    names = "\n".join(sorted(os.listdir(jars))) if os.path.isdir(jars) else ""
    hadoop = re.search(r"^hadoop-client-api-(\d+\.\d+\.\d+)\.jar$", names, re.MULTILINE)
    spark = re.search(r"^spark-core_(\d+\.\d+)-(\d+\.\d+)\..*\.jar$", names, re.MULTILINE)
    known = [version for version in _SDK_VERSIONS if hadoop and f"{hadoop[1]}.".startswith(f"{version}.")]
    if not hadoop or not spark or not known or spark[2] not in _CLOUD_VERSIONS:
        raise ConfigError(
            f"--s3_jars {kind}: it is not known which jars fit the Spark in {jars} "
            f"({hadoop[0] if hadoop else 'no hadoop-client-api'}, {spark[0] if spark else 'no spark-core'}): "
            "add hadoop-aws and spark-hadoop-cloud of its versions to it, with --s3_jars none"
        )
    sdk = _SDK_VERSIONS[known[0]] if kind == "slim" else None
    packages = (
        f"org.apache.hadoop:hadoop-aws:{hadoop[1]}",
        f"org.apache.spark:spark-hadoop-cloud_{spark[1]}:{_CLOUD_VERSIONS[spark[2]]}",
        *(f"software.amazon.awssdk:{part}:{sdk}" for part in _SDK_PARTS if sdk),
    )
    return Packages(packages, (_BUNDLE, *_EXCLUDES) if sdk else _EXCLUDES)


def are_jars_there(home: str, environ: Mapping[str, str]) -> bool:
    """Say whether the Spark in `home`, started in this environment, has or gets hadoop-aws by itself."""
    paths = [os.path.join(home, "jars", "*"), *environ.get(CLASS_PATH, "").split(os.pathsep)]
    names = [name for path in paths for name in _names(path)]
    if any("hadoop-aws" in name and name.endswith(".jar") for name in names):
        return True
    defaults = os.path.join(
        environ.get("SPARK_CONF_DIR") or os.path.join(home, "conf"), "spark-defaults.conf"
    )
    given = environ.get("PYSPARK_SUBMIT_ARGS", "")
    with suppress(OSError):
        given += Path(defaults).read_text(encoding="utf-8", errors="replace")
    return re.search(r"^[^#\n]*hadoop-aws", given, re.MULTILINE) is not None


def _names(path: str) -> list[str]:
    """Return the file names that one entry of a class path stands for."""
    folder, name = os.path.split(path)
    if name != "*":
        return [name]
    return os.listdir(folder) if os.path.isdir(folder) else []


@contextmanager
def on_class_path(jars: Sequence[str]) -> Iterator[None]:
    """Let the JVM that a `with` block starts have the jars; what else this process starts has not."""
    before = os.environ.get(CLASS_PATH)
    if jars:
        os.environ[CLASS_PATH] = os.pathsep.join(filter(None, [before, *jars]))
    try:
        yield
    finally:
        if before is not None:
            os.environ[CLASS_PATH] = before
        elif jars:
            del os.environ[CLASS_PATH]
