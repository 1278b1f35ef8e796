"""What deploy/databricks says is what Databricks' own classes take, and what this job takes."""

import importlib
import re
import subprocess
import sys
import zipfile
from copy import deepcopy
from email.parser import Parser

import pytest
from databricks.bundles.jobs import Job

from spark_embed.load_config import conf_folder, load_config, read_properties

from support.checkout import REPOSITORY
from support.databricks_bundle import BUNDLE, local_file, read_bundle

TARGETS = ("dev", "prod")
RUNTIMES = ("18.x", "17.3.x", "16.4.x")

# What conf/*.conf has and a job may not choose: nodes are executors there, and their GPUs the platform's.
OF_THE_PLATFORM = {
    "spark.executor.cores",
    "spark.executor.memory",
    "spark.executor.memoryOverhead",
    "spark.executor.resource.gpu.amount",
    "spark.executor.resource.gpu.discoveryScript",
    "spark.executor.resource.gpu.vendor",
    "spark.task.resource.gpu.amount",  # 1 by default; on one node Spark, which has none to give, would wait
    "spark.dynamicAllocation.enabled",
}


def jobs(target: str, **variables: str) -> dict:
    return read_bundle(target, **variables)["resources"]["jobs"]


def cluster(job: dict) -> dict:
    (one,) = job["job_clusters"]
    return one["new_cluster"]


def parameters(job: dict) -> list[str]:
    """The arguments of a job's one task, with the defaults of the job's parameters."""
    (task,) = job["tasks"]
    given = (task.get("spark_python_task") or task["python_wheel_task"])["parameters"]
    defaults = {parameter["name"]: parameter["default"] for parameter in job["parameters"]}
    return [re.sub(r"\{\{job\.parameters\.(\w+)\}\}", lambda name: defaults[name[1]], word) for word in given]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_job_is_one_to_databricks(target, runtime):
    found = jobs(target, runtime=runtime)
    assert sorted(found) == ["embed", "embed_cpu", "embed_serverless"]
    for job in found.values():
        made = Job.from_dict(job)
        assert "$" not in str(made)
        assert (made.max_concurrent_runs, made.queue.enabled) == (1, True)
    for name, kind in (("embed", "gpu"), ("embed_cpu", "cpu")):
        assert cluster(found[name])["spark_version"] == f"{runtime}-{kind}-ml-scala2.13"
        assert re.fullmatch(r"[a-z]\d\w*\.\d*x?large", cluster(found[name])["node_type_id"])
        assert (cluster(found[name])["data_security_mode"], cluster(found[name])["runtime_engine"]) == (
            "SINGLE_USER",
            "STANDARD",
        )


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ((), "taskz", []),
        (("tasks", 0), "max_retrys", 1),
        (("tasks", 0, "spark_python_task"), "python_fil", "x.py"),
        (("job_clusters", 0, "new_cluster"), "data_security_mode", "SINGEL_USER"),
        (("job_clusters", 0, "new_cluster", "aws_attributes"), "availability", "SPOT_WITH_FALL_BACK"),
        (("schedule",), "pause_status", "PAUSE"),
    ],
)
def test_a_word_that_databricks_does_not_know_is_found(place, name, value):
    job = deepcopy(jobs("prod")["embed"])
    where = job
    for step in place:
        where = where[step]
    where[name] = value
    with pytest.raises((ValueError, TypeError, KeyError)):
        Job.from_dict(job)


@pytest.mark.parametrize("target", TARGETS)
def test_the_job_takes_every_parameter(target):
    for name, job in jobs(target).items():
        config = load_config(parameters(job), {})
        assert (config.env, config.input_dir) == (target, "/Volumes/main/default/images")
        assert config.require_gpu == (name == "embed")


@pytest.mark.parametrize(("name", "conf"), [("embed", "gpu.conf"), ("embed_cpu", "cpu.conf")])
def test_settings_are_those_of_conf_that_a_job_may_choose(name, conf):
    wanted = read_properties(str(conf_folder() / conf))
    for target in TARGETS:
        found = cluster(jobs(target)[name])["spark_conf"]
        assert found == {key: value for key, value in wanted.items() if key not in OF_THE_PLATFORM}


def test_development_is_one_machine_and_no_schedule_and_production_is_safe_to_deploy_to():
    dev, prod = read_bundle("dev"), read_bundle("prod")
    (one, many) = (bundle["resources"]["jobs"]["embed"] for bundle in (dev, prod))
    assert (cluster(one)["num_workers"], cluster(one)["is_single_node"]) == (0, True)
    assert (cluster(many)["num_workers"], "is_single_node" in cluster(many)) == (8, False)
    assert [job["schedule"]["pause_status"] for job in (one, many)] == ["PAUSED", "UNPAUSED"]
    assert (dev["mode"], prod["mode"]) == ("development", "production")
    # The wheel of a running job is in a folder that no later commit's deploy empties.
    assert prod["workspace"]["artifact_path"].endswith("/prod/wheels/0123abc")


@pytest.mark.parametrize("path", ["docs/databricks.md", "deploy/databricks/databricks.yml"])
def test_the_two_commands_name_a_target_a_job_and_its_parameters(path):
    text = (REPOSITORY / path).read_text()
    assert re.search(r"databricks bundle deploy -t (\w+)", text)[1] in TARGETS
    target, name, words = re.search(r"databricks bundle run -t (\w+) (\w+) -- (.+)", text).groups()
    known = {parameter["name"] for parameter in jobs(target)[name]["parameters"]}
    assert set(re.findall(r"--(\w+)=", words)) == {"input_dir", "output_dir"} < known


def test_the_files_that_it_names_are_there():
    bundle = read_bundle("dev")
    synced = [(BUNDLE / path).resolve() for path in bundle["sync"]["paths"]]
    for job in bundle["resources"]["jobs"].values():
        (task,) = job["tasks"]
        if "spark_python_task" in task:
            file = local_file(task["spark_python_task"]["python_file"])
            assert file.is_file()
            assert any(file.is_relative_to(folder) for folder in synced)
            (wheel,) = (library["whl"] for library in task["libraries"])
        else:
            wheel = job["environments"][0]["spec"]["dependencies"][0]
        assert local_file(wheel).parent == BUNDLE / "dist"
    interpreter, script, folder = bundle["artifacts"]["wheel"]["build"].split()
    assert (interpreter, (BUNDLE / script).is_file(), folder) == ("python3", True, "dist")


def test_a_wheel_has_a_version_of_its_own_and_leaves_the_runtimes_packages_alone(tmp_path):
    command = [sys.executable, BUNDLE / "build_wheel.py", tmp_path / "dist", "--no-build-isolation"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (path,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(path) as wheel:
        (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
        entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
        names = wheel.namelist()
    assert re.fullmatch(r"\d+\.\d+\.\d+\+20\d{12}", metadata["Version"])
    wanted = {
        re.match(r"[\w-]+", line)[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line
    }
    assert {"timm", "transformers"} < wanted
    assert wanted.isdisjoint({"pyspark", "torch", "torchvision"})
    assert {"spark_embed/cli/task.py", "spark_embed/conf/prod.yaml"} < set(names)
    task = jobs("dev")["embed_serverless"]["tasks"][0]["python_wheel_task"]
    assert folder.startswith(f"{task['package_name']}-")
    module, function = re.search(
        rf"^{task['entry_point']} = (\S+):(\w+)$", entry_points, re.MULTILINE
    ).groups()
    assert callable(getattr(importlib.import_module(module), function))
