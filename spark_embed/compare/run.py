"""Runs the ladder, each step in a process of its own, round by round; returns the figures. Driver only."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from spark_embed.compare.ladder import JOB, PHOTOS, Step
from spark_embed.compare.measuring import GpuWatch, cpu_between, describe_machine, memory_between, watch
from spark_embed.compare.verdict import judge
from spark_embed.config import Config
from spark_embed.errors import ConfigError, SparkEmbedError, VerifyError, fatal_error_named
from spark_embed.models.registry import IMAGE_CLASSIFIER, IMAGE_EMBEDDER, find_kind
from spark_embed.output.records import now
from spark_embed.platforms import platform
from spark_embed.schema import EMBEDDING
from spark_embed.spark.context import find_session, reach_jvm, remote_url
from spark_embed.spark.early_daemon import is_spark_configured
from spark_embed.spark.session import are_workers_elsewhere, local_properties
from spark_embed.storage import delete, list_files, make_folder, parquet_input, write_json

logger = logging.getLogger(__name__)

DEFAULT_IMAGES = 400
_PER_SLOW_STEP = 100  # at least

_MIN_COSINE, _MIN_COSINE_FLOAT32 = 0.999, 0.99999

_SENT = ("data sent to Python workers", "data returned from Python workers")
_EVENTS = {"enabled": "true", "compress": "false", "rolling.enabled": "false"}


@dataclass(frozen=True)
class Place:
    """Where a comparison keeps its data, and how its Sparks are started.

    Attributes:
        folder: that the workers reach.
        here: a folder of this machine.
        properties: of every Spark.
    """

    folder: str
    here: str
    properties: Mapping[str, str]


def compare(config: Config, steps: Sequence[Step], n_rounds: int, output_folder: str) -> dict[str, Any]:
    """Run all steps and return what compare.json holds.

    Args:
        config: of the job; its --output_dir is not used.
        steps: the last is the job.
        n_rounds: so often.
        output_folder: where the workers are on other machines, data is kept in a folder in it meanwhile.

    Raises:
        ConfigError: an option, or the input, cannot be used.
        SparkEmbedError: a step fails.
    """
    config = _check(config)
    n_fast = config.max_samples or DEFAULT_IMAGES
    config = config.model_copy(update={"max_samples": n_fast})
    n_rows = {"slow": min(n_fast, max(_PER_SLOW_STEP, n_fast // 4)), "fast": n_fast}
    started_at = now()
    with _find_place(output_folder) as place:
        common = {"config": config.model_dump(mode="json"), "folder": place.folder, "n_rows": n_rows}
        begun, _ = _run(PHOTOS, {**common, "output": f"{place.folder}/begun"}, place)
        photos, model = begun["photos"], begun["model"]
        logger.info("photos: %d different ones, %d in a fast step", photos["n_rows"], n_fast)
        if not isinstance(model["preprocessing"], dict):
            raise ConfigError(
                f"--model_directory {config.model_directory}: its images are prepared by its own processor; "
                "compare is for models whose preprocessing is a resize and a crop"
            )
        runs: dict[str, list[dict[str, Any]]] = {step.name: [] for step in steps}
        for number in range(n_rounds):
            for step in (*steps[number % len(steps) :], *steps[: number % len(steps)]):
                data = "slow" if step.is_slow else "fast"
                one = _measure(step, {**common, "model": model, "data": data}, place)
                one["n_images"] = n_rows[data]
                runs[step.name].append(one)
                rate = one["n_images"] / one["seconds"]
                logger.info("round %d, %s: %.1f images/s", number + 1, step.name, rate)
        wanted = _vectors(f"{place.folder}/{JOB.name}")
        found = [_summarize(step, runs[step.name], wanted, place) for step in steps]
    result = {
        "product": "spark_embed_compare",
        "format": 1,
        "started_at": started_at,
        "machine": {
            "text": describe_machine(),
            "n_cores": len(os.sched_getaffinity(0)),
            "device": model["device"],
        },
        "model": {"name": model["name"], "kind": config.task, "dtype": model["dtype"]},
        "input": {"root": config.input_dir, **photos},
        "n_rounds": n_rounds,
        "steps": found,
    }
    return {**result, "verdict": judge(result)}


def check_vectors(result: Mapping[str, Any]) -> None:
    """Refuse a comparison of steps that do not have the same vectors.

    Raises:
        VerifyError: the first that has others.
    """
    is_exact = result["model"]["dtype"] == "float32"
    limit = _MIN_COSINE_FLOAT32 if is_exact else _MIN_COSINE
    for step in result["steps"]:
        if not step["n_compared"] or step["min_cosine"] < limit:
            raise VerifyError(
                f"{step['name']}: its vectors are not the job's: smallest cosine {step['min_cosine']} of "
                f"{step['n_compared']} images; at least {limit} makes it a comparison"
            )


def _check(config: Config) -> Config:
    """Return the options of a job that can be compared with others.

    Raises:
        ConfigError: there is none.
    """
    if remote_url() or platform() == "databricks" or find_session():
        raise ConfigError("compare: starts a Spark for each step, so not in a session that is there already")
    if find_kind(config) not in (IMAGE_EMBEDDER, IMAGE_CLASSIFIER) or config.text_column:
        raise ConfigError(f"--task {config.task}: compare is for vision models that embed or classify")
    ends = dict.fromkeys(("max_hours", "max_cost", "output_files", "max_error_fraction"))
    # Of a classifier its vectors are compared, which the job then gives, too. No scaling: the same pixels.
    changed = {"with_embedding": config.task == "classify", "jpeg_scaling": "off", "overwrite": True}
    return config.model_copy(update={**ends, **changed})


@contextlib.contextmanager
def _find_place(output_folder: str) -> Iterator[Place]:
    """Find where the Sparks run, by what spark-submit was told; make a folder that is deleted in the end."""
    if is_spark_configured():
        reach_jvm()
        from pyspark import SparkConf

        properties = dict(SparkConf().getAll())
    else:
        properties = {**local_properties(), "spark.master": "local[*]"}
    is_elsewhere = are_workers_elsewhere(lambda: None)  # type: ignore[arg-type, return-value]
    with tempfile.TemporaryDirectory(prefix="spark_embed-compare-") as here:
        folder = f"{output_folder}/spark_embed-compare-{uuid.uuid4().hex[:12]}" if is_elsewhere else here
        try:
            make_folder(folder)
            yield Place(folder, here, properties)
        finally:
            if is_elsewhere:
                delete(folder)


def _measure(step: Step, given: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Run a step once; returns its figures."""
    output = f"{place.folder}/{step.name}"
    delete(output)
    result, seen = _run(step.name, {**given, "output": output}, place)
    began, ended = result["began"], result["ended"]
    memory = memory_between(seen["processes"], began, ended)
    return {
        **result,
        "cpu_s": cpu_between(seen["processes"], began, ended),
        "memory_mb": memory,
        "jvm_python_mb": _read_sent(seen["events"], began),
        "gpu": seen["gpu"],
    }


def _run(name: str, given: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run `spark_embed.compare.step` in a process; returns its result, and what was seen meanwhile.

    Raises:
        SparkEmbedError: it fails.
    """
    folder = tempfile.mkdtemp(prefix=f"{name}-", dir=place.here)
    settings, log, result = (f"{folder}/{one}" for one in ("settings.json", "log", "result.json"))
    write_json(settings, {**given, "result": result})
    events = Path(folder, "events")
    events.mkdir()
    told = {f"spark.eventLog.{name}": value for name, value in _EVENTS.items()}
    own = {} if name in (JOB.name, PHOTOS) else {"spark.python.daemon.module": "pyspark.daemon"}
    values = {**place.properties, **told, **own, "spark.eventLog.dir": events.as_uri()}
    Path(folder, "spark.conf").write_text("".join(f"{name} {value}\n" for name, value in values.items()))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_GATEWAY_")}
    env["PYSPARK_SUBMIT_ARGS"] = f"--properties-file {folder}/spark.conf pyspark-shell"
    command = [sys.executable, "-m", "spark_embed.compare.step", name, settings]
    with open(log, "w", encoding="utf-8") as file, GpuWatch() as gpu:
        try:
            processes = watch(command, output=file, env=env)
        except subprocess.CalledProcessError as exc:
            lines = [line for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
            raise SparkEmbedError(f"{name}: failed ({exc.returncode}): {' '.join(lines[-1:])}") from exc
    found = json.loads(Path(result).read_text())
    if "error" in found:
        raise fatal_error_named(found["error"])(f"{name}: {found['said']}")
    return found, {"processes": processes, "events": events, "gpu": gpu.use}


def _read_sent(events: Path, began: float) -> float | None:
    """Return the MB between the JVM and Python workers, by Spark's event log; None if it is not here."""
    n_bytes, is_there = 0, False
    for path in events.iterdir():
        for line in path.read_text().splitlines():
            if '"Event":"SparkListenerTaskEnd"' not in line:
                continue
            task = json.loads(line)["Task Info"]
            is_there = True
            if task["Launch Time"] >= began * 1000:
                sent = (one for one in task["Accumulables"] if one.get("Name") in _SENT)
                n_bytes += sum(int(one["Update"]) for one in sent)
    return round(n_bytes / 1e6, 2) if is_there else None


def _summarize(
    step: Step, runs: Sequence[dict[str, Any]], wanted: Mapping[str, Any], place: Place
) -> dict[str, Any]:
    """Return a step's entry in compare.json: of what has no spread, the last round's."""
    last = runs[-1]
    folder = f"{place.folder}/{step.name}"
    cosines = _cosines(_vectors(folder), wanted)
    return {
        "name": step.name,
        "title": step.title,
        "mistake": step.mistake,
        "cure": step.cure,
        "program": step.program,
        "n_images": last["n_images"],
        "images_per_s": [round(one["n_images"] / one["seconds"], 2) for one in runs],
        "cpu_s": last["cpu_s"],
        "peak_mb": max(mb for one in runs for _, mb in one["memory_mb"]),
        "jvm_python_mb": last["jvm_python_mb"],
        "n_model_loads": last["n_model_loads"],
        "n_output_files": len(_result_files(folder)),
        "gpu": last["gpu"],
        "min_cosine": round(float(cosines.min()), 7) if len(cosines) else None,
        "n_compared": len(cosines),
        "memory_mb": last["memory_mb"],
        "stage_s": last.get("stage_s", {}),
    }


def _result_files(folder: str) -> list[str]:
    """Return the files with vectors: of the job the published ones."""
    paths = [f"{folder}/{file.path}" for file in list_files(folder, ".parquet")]
    return [path for path in paths if not re.search(r"/errors\.parquet/|/_spark_embed/", path)]


def _vectors(folder: str) -> dict[str, Any]:
    """Return the vectors, of length 1, by key."""
    found: dict[str, Any] = {}
    for path in _result_files(folder):
        table = pq.ParquetFile(parquet_input(path)).read(columns=["key", EMBEDDING])
        if table.num_rows:
            vectors = np.stack(table[EMBEDDING].to_numpy()).astype(np.float64)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            found |= dict(zip(table["key"].to_pylist(), vectors, strict=True))
    return found


def _cosines(vectors: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
    return np.array([vector @ wanted[key] for key, vector in vectors.items() if key in wanted])
