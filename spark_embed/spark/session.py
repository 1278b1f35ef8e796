"""The Spark session of a job: checked, with the settings of conf/local.conf where nobody gave others."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed.config import Config
from spark_embed.errors import ConfigError, SparkEmbedError
from spark_embed.load_config import conf_folder, read_properties
from spark_embed.spark.cluster.census import check_cluster, tell
from spark_embed.spark.cluster.conf import MASTER, check_settings
from spark_embed.spark.connect import connect, disconnect, say_what_is_missing
from spark_embed.spark.context import (
    context_of,
    find_session,
    is_connect,
    is_local,
    reach_jvm,
    remote_url,
    start_context,
    stop_jvm_context,
    use_own_python,
)
from spark_embed.spark.early_daemon import is_spark_configured, start_early_daemon, stop_early_daemon
from spark_embed.spark.handover import ADDRESS
from spark_embed.spark.s3.jars import on_class_path
from spark_embed.spark.s3.session import adopt_session, bring_jars, send_to_executors, use_s3
from spark_embed.spark.settings import count_slots

logger = logging.getLogger(__name__)

_TASK_ATTEMPTS = 4
_DAEMON_MODULE = "spark_embed.spark.worker_daemon"  # conf/local.conf

# What this process has been told of the hub holds for the workers that ask it, too.
_HUB_VARIABLES = ("HF_HUB_OFFLINE", "HF_ENDPOINT")

# What pyspark raises in one thread while another one stops the session.
_STOPPED_MEANWHILE = (PySparkException, Py4JError, OSError, AttributeError, AssertionError)


Session = Callable[[], SparkSession]
"""Gives the Spark session, always the same; starts it if there is none."""


def make_session(config: Config, started: Callable[[], None] = lambda: None) -> SparkSession:
    """Return the session that is active already, else one as spark-submit says, else one on this machine.

    A local master is rewritten to local[N,4]: plain local[N] never retries a failed task. On a cluster
    nothing is set that was not asked for.

    Args:
        config: the options.
        started: called as soon as pyspark has taken over Ctrl-C, which it does in the middle of all this.

    Raises:
        ConfigError: Spark does not start, cannot reach S3 though a path is there, or no run can be with its
            settings or executors.
        ModelError: an executor lacks the model, or with --require_gpu a GPU.
    """
    if (active := find_session()) is not None:
        check_workers(active, config.num_workers)
        _adopt(active, config)
        check_cluster(active, config)
        return active
    if remote := remote_url():
        spark = connect(remote)
        started()
        with _stopped_if_refused(spark):
            check_workers(spark, config.num_workers)
            _adopt(spark, config)
            check_cluster(spark, config)
        return spark
    jars = bring_jars(config)
    try:
        with on_class_path(jars):
            start_context(_make_conf(config, jars))
        started()
        spark = SparkSession.builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError, OSError) as exc:
        said = str(exc.java_exception if isinstance(exc, Py4JJavaError) else exc)
        raise ConfigError(f"Spark does not start: {said.splitlines()[0]}") from exc
    with _stopped_if_refused(spark):
        check_workers(spark, config.num_workers)
        if is_local(spark):
            start_worker_daemon(spark)
        use_s3(spark, config)
        check_cluster(spark, config)
    return spark


@contextlib.contextmanager
def _stopped_if_refused(spark: SparkSession) -> Iterator[None]:
    """Stop a session that this process has begun, if a `with` block finds that no run can be with it."""
    try:
        yield
    except (SparkEmbedError, PySparkException, Py4JError):
        stop_session(spark)
        raise


def as_session(spark: SparkSession | Session, config: Config) -> Session:
    """Return what gives a session, of a session that is there already too, which is then looked at first.

    Raises:
        ConfigError: the run is on S3, and this session cannot reach it.
    """
    if callable(spark):
        return spark
    _adopt(spark, config)

    @cache
    def session() -> SparkSession:
        check_cluster(spark, config)
        return spark

    return session


def are_workers_elsewhere(spark: SparkSession | Session) -> bool:
    """Say whether the workers are other machines, which may have other folders; starts no context."""
    active = find_session() if callable(spark) else spark
    if active is not None:
        return not is_local(active)
    if remote_url():
        return True
    if is_spark_configured():
        with contextlib.suppress(
            PySparkException, Py4JError, RuntimeError, OSError
        ):  # told where the session starts
            reach_jvm()
    return not str(SparkConf().get("spark.master", "local")).startswith("local")


def start_worker_daemon(spark: SparkSession) -> threading.Thread:
    """Begin with the workers' slow imports in the background; returns the thread that waits for them.

    Spark starts its Python daemon (worker_daemon.py) with the first task that needs it, which in
    a new session is seconds away: the first query has classes to load and code to compile. A task
    without SQL gets there at once.
    """

    def run() -> None:
        with contextlib.suppress(*_STOPPED_MEANWHILE):
            context_of(spark).parallelize([0], 1).foreachPartition(_do_nothing)

    thread = threading.Thread(target=run, name="worker daemon", daemon=True)
    thread.start()
    return thread


def stop_session(spark: SparkSession) -> None:
    """Stop a session at the end of the process.

    The JVM's half only: pyspark's own takes a second more, in which its accumulator server looks up. What the
    JVM has to say of tasks that end with it is no news.
    """
    if is_connect(spark):
        disconnect(spark)
        return
    silence(spark)
    with contextlib.suppress(*_STOPPED_MEANWHILE):  # the JVM may be gone; the exit ends it anyway
        stop_jvm_context(spark)


def silence(spark: SparkSession) -> None:
    """Stop the JVM's log, where it is this process's."""
    with contextlib.suppress(*_STOPPED_MEANWHILE):
        context_of(spark).setLogLevel("OFF")


def _adopt(spark: SparkSession, config: Config) -> None:
    """Prepare a session that somebody else has started, or say what cannot be prepared.

    Raises:
        ConfigError: the run is on S3, and this session cannot reach it.
    """
    if is_connect(spark):
        say_what_is_missing(config)
    else:
        use_own_python()
        adopt_session(spark, config)


def _do_nothing(rows: Iterable[int]) -> None:
    pass


def _make_conf(config: Config, jars: list[str]) -> SparkConf:
    """Return what spark-submit was given, and what is missing; `jars` are on this JVM's class path."""
    jvm_runs = is_spark_configured()
    if jvm_runs:
        reach_jvm()
    conf = SparkConf()
    conf.setAppName("spark_embed").setIfMissing("spark.log.level", "WARN")
    master = conf.get("spark.master", None) or "local[*]"
    tell(fault for fault in check_settings({**dict(conf.getAll()), MASTER: master}) if fault.error)
    if not master.startswith("local") or master.startswith("local-cluster"):
        stop_early_daemon()
        send_to_executors(conf, config, jars)
        for name in filter(os.environ.__contains__, _HUB_VARIABLES):
            conf.setIfMissing(f"spark.executorEnv.{name}", os.environ[name])
        return conf
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # else Spark looks for the host's name, and warns
    conf.setMaster(local_master(master, config.num_workers))
    if conf.get("spark.python.daemon.module", _DAEMON_MODULE) == _DAEMON_MODULE:
        conf.set(f"spark.executorEnv.{ADDRESS}", start_early_daemon())
    for name, value in local_properties().items():
        # Options of a driver's JVM that runs already would be ignored, though Spark would show them.
        if not (jvm_runs and name.startswith("spark.driver.")):
            conf.setIfMissing(name, value)
    return conf


def local_master(master: str, num_workers: int | None) -> str:
    """Return local[N,4] for a local master: N is --num_workers, else the master's own, else all cores."""
    found = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\s*(\d+))?\])?", master)
    if not found:
        return master
    cores, attempts = found[1] or "1", found[2] or str(_TASK_ATTEMPTS)
    n_tasks = str(num_workers or (len(os.sched_getaffinity(0)) if cores == "*" else cores))
    return f"local[{n_tasks},{attempts}]"


def check_workers(spark: SparkSession, num_workers: int | None) -> None:
    """Warn where --num_workers and what the session can run at once differ."""
    if not num_workers:
        return
    slots, _ = count_slots(spark)
    if num_workers != slots:
        logger.warning(
            "--num_workers %d: this Spark runs %d tasks at once; its master or the cluster decides that "
            "(spark.executor.instances, spark.executor.cores)",
            num_workers,
            slots,
        )


def local_properties() -> dict[str, str]:
    """Return the settings of conf/local.conf, with the path in it made absolute, and the class archive."""
    values = read_properties(str(conf_folder() / "local.conf"))
    log4j = (conf_folder() / "log4j2.properties").absolute().as_uri()
    values = {name: value.replace("conf/log4j2.properties", log4j) for name, value in values.items()}
    if (archive := class_archive()).exists():
        values["spark.driver.extraJavaOptions"] += (
            f" -XX:SharedArchiveFile={archive} -Xlog:cds=off -Xlog:cds+dynamic=off"
        )
    return values


def class_archive() -> Path:
    """Return where this environment keeps the classes that a run loads, ready to be mapped.

    tools/make_class_archive.py makes it; a run starts 3 s sooner with it. A JVM of another build, or with
    another classpath, ignores it.
    """
    return Path(sys.prefix) / "share" / "spark_embed" / "classes.jsa"
