"""The images of deploy/images, built by the Dockerfile as it is, and run: job, Spark's executors, service."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from support.checkout import REPOSITORY
from support.images import FREE_BYTES, TOOLS, Container, images
from support.s3_server import free_port

pytestmark = [pytest.mark.images, pytest.mark.slow, pytest.mark.timeout(3600)]

USER = "185"  # Spark's on Kubernetes
JOBS = "/opt/spark_embed/jobs"


@pytest.fixture(scope="module")
def place():
    """Where images are built; it ends with this file's tests."""
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        pytest.skip(f"no {' and no '.join(missing)} on the PATH: apt-get install {' '.join(TOOLS)}")
    if os.geteuid():
        pytest.skip("buildah's chroot isolation needs root")
    if (free := shutil.disk_usage("/tmp").free) < FREE_BYTES:
        pytest.skip(f"{free >> 30} GiB free in /tmp, {FREE_BYTES >> 30} needed")
    with images() as place:
        yield place


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that the user of an image may write to, with the demo's photos in it."""
    folder = tmp_path_factory.mktemp("data")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o777)
    subprocess.run([sys.executable, "tools/make_demo.py", str(folder / "photos")], cwd=REPOSITORY, check=True)
    return folder


@pytest.fixture(scope="module")
def job_image(place):
    """The job's image; the executors' is built on it."""
    name = place.build("job")
    yield name
    place.remove(name)


@pytest.fixture(scope="module")
def job(place, job_image):
    """The job's image, as a container of it."""
    container = Container(place, job_image)
    has_nothing_to_spare(container)
    yield container
    container.remove()


@pytest.fixture(scope="module")
def executor(place, job, job_image):
    """The executors' image; the job's tests are before these, and its container is gigabytes."""
    job.remove()
    name = place.build("executor", ["--build-context", f"job=container-image://{job_image}"])
    container = Container(place, name)
    has_nothing_to_spare(container)
    yield container
    container.remove()
    place.remove(name)


@pytest.fixture(scope="module")
def vectors(job, folder) -> Path:
    """What the job makes of the photos, as it is started by docker run."""
    done = job.as_started(
        *("--input_dir", "/data/photos", "--output_dir", "/data/vectors"), volumes={folder: "/data"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "vectors"


def has_nothing_to_spare(container: Container) -> None:
    """No compiler, no cache, no setting of who built it, and a user without rights."""
    compilers = {"gcc", "cc", "g++", "clang", "make", "ptxas"}
    assert not [path for path in container.root.rglob("bin/*") if path.name in compilers]
    for folder in ("var/lib/apt/lists", "var/cache/apt", "tmp", "var/cache/pip", "src", "package", "dist"):
        path = container.root / folder
        assert not path.exists() or not any(path.iterdir()), folder
    assert not (container.root / "etc/pip.conf").exists()
    assert container.config["User"] == USER
    told = container.run("sh", "-c", "id -u; pwd; touch x; touch /opt/venv/x").stdout.split()
    assert told == [USER, "/work"]
    assert not (container.root / "opt/venv/x").exists()
    variables = dict(line.split("=", 1) for line in container.config["Env"])
    assert not [name for name in variables if re.search("KEY|TOKEN|SECRET|PASSWORD|PIP_", name)]


def test_the_job_embeds_and_verifies(job, folder, vectors):
    metadata = json.loads((vectors / "metadata.json").read_text())
    assert metadata["counts"] == {**metadata["counts"], "rows": 97, "embedded": 96}
    assert (vectors / "metadata.json").stat().st_uid == int(USER)
    done = job.as_started("verify", "/data/vectors", volumes={folder: "/data"})
    assert "96 rows with a vector, 1 without: nothing is wrong" in done.stdout
    # Again with the same command: all is there.
    again = job.as_started(
        *("--input_dir", "/data/photos", "--output_dir", "/data/vectors"), volumes={folder: "/data"}
    )
    assert again.returncode == 0


def test_the_job_takes_any_user_and_ends_with_sigterm(job, folder):
    """docker run --user $(id -u):$(id -g): a number that the image has no name for."""
    words = ("--input_dir", "/data/photos", "--output_dir", "/data/stopped")
    with job.started(*words, volumes={folder: "/data"}, user="4321:4321") as process:
        wait_until_said(process, "found 4 parquet shards")
        (tini,) = [
            one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "tini"
        ]
        assert tini.uids().real == 4321
        tini.send_signal(signal.SIGTERM)
        assert process.wait(60)
    done = job.as_started(*words, volumes={folder: "/data"}, user="4321:4321")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "stopped/metadata.json").stat().st_uid == 4321


@pytest.mark.parametrize("start", [["spark-embed"], ["spark-submit", f"{JOBS}/embed.py"]], ids=lambda w: w[0])
def test_a_start_maps_the_archive_of_classes(job, folder, start):
    environ = {"JDK_JAVA_OPTIONS": "-Xlog:class+load:file=/data/classes-%p.log"}
    for old in folder.glob("classes-*.log"):
        old.unlink()
    words = ("--input_dir", "/data/photos", "--output_dir", f"/data/by-{start[0]}")
    done = job.run(*start, *words, volumes={folder: "/data"}, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    mapped = max(path.read_text().count("shared objects file (top)") for path in folder.glob("classes-*.log"))
    assert mapped > 10_000


def test_the_job_goes_from_bucket_to_bucket_and_fetches_nothing(job, folder, s3_server, bucket):
    for shard in (folder / "photos").glob("*.parquet"):
        s3_server.direct.upload_file(str(shard), bucket, f"photos/{shard.name}")
    done = job.as_started(
        *("--input_dir", f"s3://{bucket}/photos", "--output_dir", f"s3://{bucket}/out"),
        environ=s3_server.environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetching" not in done.stdout + done.stderr
    assert "out/metadata.json" in s3_server.content(bucket)
    assert not (job.root / "work/.cache/spark_embed/jars").exists()


def test_the_executor_runs_what_a_drivers_pod_asks_for(executor, folder):
    """As spark-submit's pods ask: properties mounted, the job as local://; on this machine."""
    (folder / "conf").mkdir()
    (folder / "conf/spark.properties").write_text("spark.master=local[2]\nspark.submit.deployMode=client\n")
    done = executor.as_started(
        *("driver", "--properties-file", "/opt/spark/conf/spark.properties"),
        *("--class", "org.apache.spark.deploy.PythonRunner", f"local://{JOBS}/embed.py"),
        *("--input_dir", "/data/photos", "--output_dir", "/data/by_driver"),
        volumes={folder: "/data", folder / "conf": "/opt/spark/conf"},
        environ={"SPARK_CONF_DIR": "/opt/spark/conf", "SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "by_driver/metadata.json").exists()
    assert os.access(executor.root / "work/gpus.sh", os.X_OK)


def test_the_executor_starts_sparks_backend(executor):
    """It asks the driver that it was told of, who is not there."""
    port = free_port()
    environ = {
        "SPARK_DRIVER_URL": f"spark://CoarseGrainedScheduler@127.0.0.1:{port}",
        "SPARK_EXECUTOR_ID": "1",
        "SPARK_EXECUTOR_CORES": "1",
        "SPARK_EXECUTOR_MEMORY": "512m",
        "SPARK_APPLICATION_ID": "app",
        "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
        "SPARK_EXECUTOR_POD_NAME": "pod",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_JAVA_OPT_0": "-Dsaid=two words",
        "SPARK_JAVA_OPT_1": "-XshowSettings:properties",
    }
    done = executor.as_started("executor", environ=environ)
    said = done.stdout + done.stderr
    assert done.returncode
    assert "said = two words" in said
    assert f"Failed to connect to /127.0.0.1:{port}" in said, said


def test_the_service_answers_with_the_jobs_vector_until_sigterm(place, vectors, folder):
    name = place.build(None)
    container = Container(place, name)
    assert container.config["Entrypoint"][-1] == "8000"
    assert container.config["ExposedPorts"] == {"8000/tcp": {}}
    has_nothing_to_spare(container)
    assert not (container.root / "usr/lib/jvm").exists()
    port = free_port()
    table = pq.read_table(vectors / "embeddings.parquet").to_pylist()
    photos = {row["key"]: row["jpg"] for row in pq.read_table(folder / "photos").to_pylist()}
    with (
        container.started("--port", port, environ={"OMP_NUM_THREADS": "1"}) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        wait_until_said(process, "ready: efficientnet_lite0")
        assert client.get("/ready").status_code == 200
        for row in table[:10]:
            answer = client.post("/infer", content=photos[row["key"]], headers={"Content-Type": "image/jpeg"})
            vector, expected = np.array(answer.json()["output"][0]), np.array(row["embedding"])
            assert np.abs(vector - expected).max() <= 1e-5
        check = [word.replace("8000", str(port)) for word in health_check(place, name)]
        assert container.run(*check).returncode == 0
        (tini,) = [
            one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "tini"
        ]
        tini.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert container.run(*check).returncode != 0
    container.remove()
    place.remove(name)


def test_prometheus_takes_its_configuration(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on the PATH: apt-get install prometheus")
    compose = yaml.safe_load((REPOSITORY / "deploy/images/docker-compose.yml").read_text())
    (tmp_path / "prometheus.yml").write_text(compose["configs"]["prometheus"]["content"])
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def health_check(place, name: str) -> list[str]:
    """Return the command of an image's health check."""
    told = json.loads(place.buildah("inspect", "--type", "image", name))["Docker"]["config"]
    kind, *command = told["Healthcheck"]["Test"]
    assert kind == "CMD"
    return command


def first_process(process: subprocess.Popen[str]) -> psutil.Process:
    """Return what an engine would send a signal to."""
    (tini,) = [one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "tini"]
    return tini


def wait_until_said(process: subprocess.Popen[str], words: str) -> None:
    """Read what a process says until some words come."""
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return
    pytest.fail("".join(said))
