"""Jars from Maven, fetched once and kept; driver only.

Spark's own way, spark.jars.packages, asks Ivy at every start: 3 s more (9.6 instead of 6.8 to a session, jars
cached, medians of six, pyspark 4.1.4 on two cores), and a hundred lines on the terminal. Here the same Ivy
runs once, in a Spark that does nothing else and whose output is read here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence

from spark_embed.errors import ConfigError

logger = logging.getLogger(__name__)

_LIMIT_S = 1800
_PREFIX = "fetching-"
# A host that does not answer: Java waits minutes for each of some hundred files, if not told.
_TIMEOUTS = "-Dsun.net.client.defaultConnectTimeout=15000 -Dsun.net.client.defaultReadTimeout=60000"

# A class of every Spark whose main() only prints a line. spark-submit resolves packages before it runs one.
_DOES_NOTHING = ("--class", "org.apache.hadoop.util.VersionInfo", "spark-internal")


def fetch_jars(home: str, packages: Sequence[str], excludes: Sequence[str]) -> list[str]:
    """Return the paths of the jars of Maven packages and of what they depend on, without `excludes`.

    Args:
        home: the folder of a Spark, which brings Ivy. Its spark-defaults.conf counts: spark.jars.ivySettings
            or spark.jars.repositories name other registries than Maven Central.
        packages: group:artifact:version.
        excludes: group:artifact, either with * for any letters.

    Raises:
        ConfigError: they cannot be fetched or kept.
    """
    key = hashlib.sha256(repr((packages, excludes)).encode()).hexdigest()[:8]
    folder = os.path.join(_cache_folder(), f"{packages[0].split(':', 1)[1].replace(':', '-')}-{key}")
    try:
        if not os.path.isdir(folder):
            logger.info("fetching %s and what it needs from Maven, once", packages[0])
            _fetch(home, packages, excludes, folder)
        return sorted(os.path.join(folder, name) for name in os.listdir(folder))
    except OSError as exc:
        raise ConfigError(
            f"jars cannot be kept in {_cache_folder()}: {exc}; XDG_CACHE_HOME may name another folder"
        ) from exc


def _cache_folder() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "spark_embed", "jars")


def _fetch(home: str, packages: Sequence[str], excludes: Sequence[str], folder: str) -> None:
    """Make `folder` appear with the jars in it, all or none."""
    os.makedirs(_cache_folder(), exist_ok=True)
    _clean(_cache_folder())
    with tempfile.TemporaryDirectory(dir=_cache_folder(), prefix=_PREFIX) as staged:
        _run_ivy(home, packages, excludes, staged)
        try:
            os.rename(os.path.join(staged, "jars"), folder)
        except OSError:
            if not os.path.isdir(folder):  # else another run was first
                raise


def _clean(cache: str) -> None:
    """Delete what fetches that were killed have left."""
    for name in os.listdir(cache):
        path = os.path.join(cache, name)
        if name.startswith(_PREFIX) and time.time() - os.path.getmtime(path) > 2 * _LIMIT_S:
            shutil.rmtree(path, ignore_errors=True)


def _run_ivy(home: str, packages: Sequence[str], excludes: Sequence[str], staged: str) -> None:
    wanted = ["--packages", ",".join(packages), "--exclude-packages", ",".join(excludes)]
    command = [os.path.join(home, "bin", "spark-submit"), "--master", "local", "--deploy-mode", "client"]
    options = f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} {_TIMEOUTS}"
    try:
        done = subprocess.run(
            [*command, *wanted, "--conf", f"spark.jars.ivy={staged}", *_DOES_NOTHING],
            # As the session itself starts: a host whose name nobody knows has Spark, too.
            env={
                "SPARK_LOCAL_IP": "127.0.0.1",
                **os.environ,
                "SPARK_HOME": home,
                "SPARK_SUBMIT_OPTS": options,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(_not_fetched(packages, f"not done after {_LIMIT_S} s")) from exc
    if done.returncode:
        log = os.path.join(_cache_folder(), "failed.log")
        with open(log, "w", encoding="utf-8") as file:
            file.write(done.stdout)
        raise ConfigError(_not_fetched(packages, f"{_reason(done.stdout)} (all of it: {log})"))


def _not_fetched(packages: Sequence[str], reason: str) -> str:
    return (
        f"the jars for S3 ({packages[0]} and more) cannot be fetched from Maven: {reason}. Name a registry "
        "that this machine reaches in spark-defaults.conf (spark.jars.repositories, spark.jars.ivySettings), "
        f"or bring {_cache_folder()} from a machine that has them, or put them into Spark's jars folder"
    )


def _reason(text: str) -> str:
    """Return what Ivy, or Java, says of a failure: the first package, and why one host did not give it."""
    packages = re.findall(r"^\s*:: ([\w.-]+)#([\w.-]+);([\w.-]+): not found", text, re.MULTILINE)
    hosts = re.findall(r"^\s*(Host \S+ not found|Server access error at .*)", text, re.MULTILINE)
    errors = re.findall(r"^(?:Caused by:|Exception in thread \S+) *(.*)", text, re.MULTILINE)
    said = [f"{':'.join(packages[0])} not found"] if packages else errors[-1:]
    return "; ".join([*said, *hosts[:1]]) or (text.strip().splitlines() or ["no word of why"])[-1]
