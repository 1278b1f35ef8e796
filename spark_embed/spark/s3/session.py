"""Makes a Spark session able to read and write on S3, or says in one line what it lacks; driver only."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.platforms import platform
from spark_embed.spark import context
from spark_embed.spark.s3.jars import are_jars_there, find_packages, spark_home
from spark_embed.spark.s3.maven import fetch_jars
from spark_embed.spark.s3.s3a import (
    carried_environment,
    committer_classes,
    needs_s3,
    s3_bucket,
    s3a_settings,
    store_environment,
)
from spark_embed.storage import is_s3

logger = logging.getLogger(__name__)

_SOURCE = "spark_embed"
# Where a Hadoop setting comes from that nobody has chosen.
_DEFAULTS = ("core-default.xml", "mapred-default.xml", _SOURCE)

_FILE_SYSTEM = "org.apache.hadoop.fs.s3a.S3AFileSystem"
_NO_FILE_SYSTEM = ("S3AFileSystem not found", "No FileSystem for scheme")
_MISFITS = (
    "ClassNotFoundException",
    "NoClassDefFoundError",
    "NoSuchMethodError",
    "NoSuchFieldError",
    "LinkageError",
)


def bring_jars(config: Config) -> list[str]:
    """Return the jars for S3 that the JVM which this process is going to start needs, if any, by path.

    Raises:
        ConfigError: it is not known which fit, or they cannot be fetched.
    """
    if (
        not needs_s3(config)
        or config.s3_jars == "none"
        or is_jvm_there()
        or platform()
        or are_jars_there(spark_home(), os.environ)
    ):
        return []
    return _fetch(config.s3_jars)


def is_jvm_there() -> bool:
    """Say whether Spark's JVM runs already, with the class path that it was started with."""
    return context.is_jvm_there() or "PYSPARK_GATEWAY_PORT" in os.environ


def send_to_executors(conf: SparkConf, config: Config, jars: list[str]) -> None:
    """Let executors in other processes have the jars, and their Python workers the environment.

    Raises:
        ConfigError: what the environment says of S3 cannot be read.
    """
    if jars:
        conf.set("spark.jars", ",".join(filter(None, [conf.get("spark.jars", None), *jars])))
    for name, value in carried_environment(store_environment(config)).items():
        conf.setIfMissing(f"spark.executorEnv.{name}", value)


def adopt_session(spark: SparkSession, config: Config) -> None:
    """Prepare a session that somebody else has started, maybe long ago.

    Raises:
        ConfigError: as `use_s3`.
    """
    environment = context.context_of(spark).environment
    jvm = context.jvm_of(spark) if context.is_local(spark) else None
    for name, value in carried_environment(store_environment(config)).items():
        # Workers here inherit the JVM's. Another environment is another daemon: no needless change.
        inherited = jvm.System.getenv(name) if jvm else None
        if environment.get(name, inherited) != value:
            environment[name] = value
    use_s3(spark, config)


def use_s3(spark: SparkSession, config: Config) -> None:
    """Set what S3A lacks where nobody has set it, and start it for the first bucket of the run.

    Raises:
        ConfigError: this Spark has no S3A, or its jars do not fit together; with what to add.
    """
    bucket = s3_bucket(config)
    if bucket is None or platform():
        return
    jvm, hadoop = context.jvm_of(spark), context.hadoop_settings(spark)
    if config.s3_jars != "none" and not _are_classes_there(jvm, [_FILE_SYSTEM]):
        _add_jars(spark, _fetch(config.s3_jars))
    version = jvm.org.apache.hadoop.util.VersionInfo.getVersion()
    for name, value in s3a_settings(config, version, store_environment(config)).items():
        if is_missing(hadoop, name):
            hadoop.set(name, value, _SOURCE)
    try:
        jvm.org.apache.hadoop.fs.Path(f"s3a://{bucket}/").getFileSystem(hadoop)
    except (PySparkException, Py4JJavaError) as exc:
        raise ConfigError(_explain(exc, jvm, config)) from exc


def is_missing(hadoop: Any, name: str) -> bool:
    """Say whether nobody has chosen a Hadoop setting: no file, no --conf, no program but this one."""
    sources = hadoop.getPropertySources(name)
    if not sources:
        return True
    source = str(list(sources)[-1])
    # From 4.0 on Spark takes the endpoint from one of the two variables that boto3 knows.
    return source in _DEFAULTS or source.startswith("Set by Spark to default") or "AWS_ENDPOINT_URL" in source


def committer_settings(spark: SparkSession, config: Config) -> dict[str, str]:
    """Return the SQL settings with which Spark writes --output_dir by S3A's committer.

    None where the output is not on S3, where somebody has chosen another committer, where the class path has
    none, and on platforms and Spark Connect servers, which have their own.
    """
    values = committer_classes()
    if not is_s3(config.output_dir) or platform() or context.is_connect(spark):
        return {}
    if any(spark.conf.get(name, None) for name in values):
        return {}
    if not _are_classes_there(context.jvm_of(spark), values.values()):
        logger.debug("no committers for S3 on the class path (spark-hadoop-cloud)")
        return {}
    return values


def _explain(exc: Exception, jvm: Any, config: Config) -> str:
    """Return what to do about an exception from S3A's start."""
    text = str(exc.java_exception.toString() if isinstance(exc, Py4JJavaError) else exc).splitlines()[0]
    if any(sign in text for sign in _NO_FILE_SYSTEM):
        return f"Spark has no jars for S3: {_advice(config)}"
    logger.debug("S3A does not start", exc_info=exc)
    jar, hadoop = _jar_of_s3a(jvm), jvm.org.apache.hadoop.util.VersionInfo.getVersion()
    if hadoop not in jar or any(sign in text for sign in _MISFITS):
        return f"{jar} and its AWS SDK do not fit Spark's Hadoop {hadoop} ({text}): {_advice(config)}"
    return f"S3 cannot be used with these settings: {text}"


def _jar_of_s3a(jvm: Any) -> str:
    loader = jvm.Thread.currentThread().getContextClassLoader()
    source = loader.loadClass(_FILE_SYSTEM).getProtectionDomain().getCodeSource()
    return str(source.getLocation().getPath())


def _are_classes_there(jvm: Any, names: Iterable[str]) -> bool:
    loader = jvm.Thread.currentThread().getContextClassLoader()
    try:
        for name in names:
            loader.loadClass(name)
    except Py4JError:
        return False
    return True


def _add_jars(spark: SparkSession, jars: Sequence[str]) -> None:
    """Give jars to a session whose JVM runs already: spark-submit's, or somebody's session.

    Spark starts each driver below a class loader of its own that takes jars at any time, and the executor of
    a local master asks the same one. Other executors fetch them from the driver before their next task.
    """
    jvm = context.jvm_of(spark)
    loader = jvm.Thread.currentThread().getContextClassLoader()
    try:
        for jar in jars:
            loader.addURL(jvm.java.io.File(jar).toURI().toURL())
            if not context.is_local(spark):
                context.add_jar(spark, jar)
    except Py4JError as exc:  # another program's loader: what is missing is told by S3A's start
        logger.debug("no jars can be added to this JVM", exc_info=exc)


def _fetch(kind: Literal["slim", "full"]) -> list[str]:
    home = spark_home()
    wanted = find_packages(home, kind)
    return fetch_jars(home, wanted.packages, wanted.excludes)


def _advice(config: Config) -> str:
    packages = ",".join(find_packages(spark_home(), "full").packages)  # two names, where slim has nine
    start = (
        f"give spark-submit --packages {packages}"
        if "PYSPARK_GATEWAY_PORT" in os.environ
        else f"start the session with spark.jars.packages={packages}"
    )
    return f"leave out --s3_jars none, or {start}" if config.s3_jars == "none" else start
