"""The command of docs/kubernetes.md, up to the pods that Spark asks Kubernetes for: nobody runs them.

First spark-submit's client, which asks for the driver's pod; then that pod's own command, as an image's
entrypoint starts it, which asks for the executors'.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from PIL import Image

from spark_embed.load_config import conf_folder, read_properties

from support.checkout import REPOSITORY
from support.cluster import kill_all
from support.commands import BIN, run_command
from support.kubernetes_api import FakeKubernetes
from support.kubernetes_manifests import DOCS, VERSIONS, container, read_yaml, validate
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

SECRET = "MARKED-SECRET-KEY-OF-WHO-SUBMITS"
IMAGE = "REGISTRY/spark-embed-executor:0.1.0"
N_EXECUTORS = 8
GPU = read_properties(str(conf_folder() / "gpu.conf"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "images").mkdir()
    Image.new("RGB", (64, 48), (9, 200, 3)).save(folder / "images/green.png")
    return folder


@pytest.fixture(scope="module")
def api():
    with FakeKubernetes() as api:
        yield api


@pytest.fixture(scope="module")
def driver(api, folder):
    """The driver's pod, as the page's command has asked for it."""
    (block,) = re.findall(r"^```bash\n(.*?)^```$", DOCS, re.S | re.M)
    program, *words = shlex.split(block.replace("\\\n", ""))
    places = {
        "k8s://https://API:6443": f"k8s://{api.url}",
        "s3://BUCKET/images": str(folder / "images"),
        "s3://BUCKET/embeddings": str(folder / "embeddings"),
    }
    assert places.keys() < set(words)
    alone = ["--conf", "spark.kubernetes.submission.waitAppCompletion=false"]
    command = [BIN / program, *alone, *(places.get(word, word) for word in words)]
    keys = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET}
    own = {"PYSPARK_PYTHON": sys.executable}  # as the Makefile has it: not the images'
    submitted = run_command(*command, environ=keys | own, cwd=REPOSITORY)
    assert submitted.returncode == 0, submitted.stderr
    (pod,) = api.of_kind("pods")
    return pod


@pytest.fixture(scope="module")
def mounted(api, driver):
    """Texts of the files that the driver's pod has of ConfigMaps, by their paths."""
    maps = {one["metadata"]["name"]: one["data"] for one in api.of_kind("configmaps")}
    places = {mount["name"]: mount["mountPath"] for mount in container(driver)["volumeMounts"]}
    return {
        f"{places[volume['name']]}/{item['path']}": maps[volume["configMap"]["name"]][item["key"]]
        for volume in driver["spec"]["volumes"]
        if "configMap" in volume
        for item in volume["configMap"]["items"]
    }


@pytest.fixture(scope="module")
def executor(api, driver, mounted, folder):
    """The pod of an executor, as the driver's own command asks for it; once it has, that ends."""
    word, *words = container(driver)["args"]
    assert word == "driver"
    places = {"local:///opt/spark_embed/jobs/embed.py": str(REPOSITORY / "jobs/embed.py")}
    for path, text in mounted.items():
        places[path] = str(folder / path.rpartition("/")[2])
        (folder / places[path]).write_text(text)
    # Of the pod are its address and the service of that name, and the API server's.
    here = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.port": "0",
        "spark.driver.blockManager.port": "0",
        "spark.kubernetes.driver.master": api.url,
        "spark.kubernetes.executor.podTemplateFile": places["/opt/spark/pod-template/pod-spec-template.yml"],
        "spark.pyspark.python": sys.executable,
        "spark.ui.enabled": "false",
    }
    confs = [word for setting in here.items() for word in ("--conf", "=".join(setting))]
    log = folder / "driver.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                BIN / "spark-submit",
                *confs,
                "--deploy-mode",
                "client",
                *(places.get(one, one) for one in words),
            ],
            env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
            cwd=folder,
            stdout=file,
            stderr=file,
        )
    try:
        pods = api.await_pods("executor", N_EXECUTORS, PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) in (130, 143), log.read_text()
    finally:
        kill_all(process)
        process.wait()
    return pods[0]


def properties(text: str) -> dict[str, str]:
    """Settings as Java writes them."""
    lines = (line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value.replace("\\:", ":") for name, value in lines}


def test_the_driver_is_what_the_command_says(driver, folder):
    for version in VERSIONS:
        validate(driver, version)
    one = container(driver)
    assert one["image"] == IMAGE
    assert one["args"][:3] == ["driver", "--properties-file", "/opt/spark/conf/spark.properties"]
    job = one["args"].index("local:///opt/spark_embed/jobs/embed.py")
    assert one["args"][job + 1 :] == [
        *("--input_dir", str(folder / "images")),
        *("--output_dir", str(folder / "embeddings")),
    ]
    assert sys.prefix not in json.dumps(driver)
    assert driver["spec"]["serviceAccountName"] == "spark-embed-driver"
    assert one["resources"]["requests"]["cpu"] == "1"
    assert one["resources"]["limits"] == {"memory": one["resources"]["requests"]["memory"]}


def test_the_executors_are_what_the_command_says(driver, executor):
    for version in VERSIONS:
        validate(executor, version)
    one = container(executor)
    assert (one["image"], one["args"]) == (IMAGE, ["executor"])
    assert executor["spec"]["serviceAccountName"] == "spark-embed"
    assert executor["metadata"]["ownerReferences"][0]["name"] == driver["metadata"]["name"]
    memory = f"{(4 + 12) * 1024}Mi"
    assert (GPU["spark.executor.memory"], GPU["spark.executor.memoryOverhead"]) == ("4g", "12g")
    assert one["resources"]["requests"] == {"cpu": "7", "memory": memory}
    assert one["resources"]["limits"] == {"memory": memory, "nvidia.com/gpu": "1"}
    slots = {variable["name"]: variable.get("value") for variable in one["env"]}
    assert slots["SPARK_EXECUTOR_CORES"] == GPU["spark.executor.cores"]
    # What is called when a node is to go, and how long it may take.
    assert one["lifecycle"]["preStop"]["exec"]["command"] == ["/opt/decom.sh"]


@pytest.mark.parametrize("name", ["driver", "executor"])
def test_a_pod_has_all_that_its_template_says(name, request):
    pod, template = request.getfixturevalue(name), read_yaml(f"spark/{name}.yaml")
    for field in template["spec"].keys() - {"containers", "volumes"}:
        assert pod["spec"][field] == template["spec"][field], field
    assert template["metadata"]["labels"].items() <= pod["metadata"]["labels"].items()
    found, wanted = container(pod), container(template)
    for field in wanted.keys() - {"env", "volumeMounts"}:
        assert found[field] == wanted[field], field
    for field in ("env", "volumeMounts"):
        assert all(one in found[field] for one in wanted[field])
    assert all(volume in pod["spec"]["volumes"] for volume in template["spec"]["volumes"])


def test_the_settings_of_conf_are_mounted(mounted):
    found = properties(mounted["/opt/spark/conf/spark.properties"])
    own = {"spark.executor.resource.gpu.discoveryScript": "/opt/spark_embed/conf/gpus.sh"}
    assert {**GPU, **own}.items() <= found.items()
    assert found["spark.executor.instances"] == str(N_EXECUTORS)
    template = REPOSITORY / "deploy/kubernetes/spark/executor.yaml"
    assert mounted["/opt/spark/pod-template/pod-spec-template.yml"] == template.read_text()


def test_no_secret_of_who_submits_goes_along(api, executor):
    assert len(api.objects) > N_EXECUTORS
    assert SECRET not in json.dumps(list(api.objects.values()))
