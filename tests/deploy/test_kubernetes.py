"""What deploy/kubernetes says is what Kubernetes takes, and the Spark operator, and what the job is."""

import re
import tomllib
from copy import deepcopy

import jsonschema
import kubernetes_validate
import pytest
import yaml

from spark_embed.errors import EXIT_CODES
from spark_embed.load_config import conf_folder, load_config, read_properties

from support.checkout import REPOSITORY
from support.kubernetes_manifests import (
    DOCS,
    KUBERNETES,
    OVERLAYS,
    TEMPLATES,
    VERSIONS,
    build,
    container,
    of_kind,
    overlay,
    pods,
    read_yaml,
    spark_pods,
    validate,
    variables,
)
from support.spark_application import SCHEMA

KINDS = ["CronJob", "Deployment", "HorizontalPodAutoscaler", "Job", "PodDisruptionBudget", "Service"]

# The same command would come to the same end. 6 passes by itself: a lost pod that was silent for half a
# minute is waited for. 7 and 11 are those of other commands.
FINAL = {2, 3, 5, 8, 10}
TRIED_AGAIN = {1, 4, 6, 9, 130}
OF_OTHERS = {0, 7, 11}


def of_kubernetes(text: str, values: dict[str, str]) -> str:
    """Put values in for $(NAME), as Kubernetes does in arguments and variables."""
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], text)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_is_one_to_kubernetes(name, version):
    objects = build(f"overlays/{name}")
    assert sorted(one["kind"] for one in objects) == KINDS
    for one in [*objects, *build("accounts"), *spark_pods()]:
        validate(one, version)
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in objects} == {"spark-embed"}


@pytest.mark.parametrize(
    ("kind", "place", "name", "value"),
    [
        ("Job", ("spec", "template", "spec", "containers", 0), "envv", []),
        ("Job", ("spec", "podFailurePolicy", "rules", 1, "onExitCodes"), "values", "2"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "readinessProbe"), "periodSecond", 2),
        ("HorizontalPodAutoscaler", ("spec", "metrics", 0, "pods"), "metrics", {}),
    ],
)
def test_a_word_that_kubernetes_does_not_know_is_found(kind, place, name, value):
    one = deepcopy(overlay("gpu", kind))
    where = one
    for step in place:
        where = where[step]
    where[name] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(one, VERSIONS[0])


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_may_nothing_and_write_nowhere_but_in_their_volumes(name):
    for pod in [*pods(name), *spark_pods()]:
        of_pod, of_container = pod["spec"]["securityContext"], container(pod)["securityContext"]
        assert (of_pod["runAsNonRoot"], of_pod["runAsUser"]) == (True, 185)  # the images' user, Spark's
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert of_container["capabilities"] == {"drop": ["ALL"]}
        assert of_container["allowPrivilegeEscalation"] is False
        assert of_container["readOnlyRootFilesystem"] is True
        mounted = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
        assert sorted(mounted) == ["/tmp", "/work"]
        assert {volume["name"] for volume in pod["spec"]["volumes"]} == set(mounted.values())
        assert variables(container(pod))["HOME"] == "/work"
        # SPARK_EMBED_... of a Service would be wrong options of the job.
        assert pod["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_are_of_this_version_and_memory_is_what_was_asked_for(name):
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    for pod, target in zip(pods(name), ("job", "service"), strict=True):
        assert container(pod)["image"] == f"REGISTRY/spark-embed-{target}:{version}"
        requests, limits = (container(pod)["resources"][kind] for kind in ("requests", "limits"))
        assert requests["memory"] == limits["memory"]
        assert "cpu" not in limits
        assert limits.get("nvidia.com/gpu") == (None if name == "cpu" else 1)
        tolerated = {one["key"] for one in pod["spec"].get("tolerations", [])}
        assert ("nvidia.com/gpu" in tolerated) == (name != "cpu")


def test_no_secret_is_anywhere_but_by_reference():
    everything = [one for name in OVERLAYS for one in build(f"overlays/{name}")]
    everything += [*build("accounts"), *build("spark"), *spark_pods()]
    assert "Secret" not in {one["kind"] for one in everything}
    named = re.findall(r"name: \S*(?:KEY|TOKEN|SECRET|PASSWORD)\S*\n\s*(\w+)", yaml.safe_dump(everything))
    assert set(named) == {"valueFrom"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_nightly_run_is_the_job(name):
    nightly = overlay(name, "CronJob")["spec"]
    assert nightly["jobTemplate"]["spec"] == overlay(name, "Job")["spec"]
    assert nightly["concurrencyPolicy"] == "Forbid"


def test_a_job_goes_on_unless_it_would_come_to_the_same_end():
    assert set(EXIT_CODES) == FINAL | TRIED_AGAIN | OF_OTHERS
    spec = overlay("cpu", "Job")["spec"]
    disrupted, failed = spec["podFailurePolicy"]["rules"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (failed["action"], failed["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert set(failed["onExitCodes"]["values"]) == FINAL
    assert failed["onExitCodes"]["containerName"] == container(spec["template"])["name"]
    assert (spec["template"]["spec"]["restartPolicy"], spec["backoffLimit"]) == ("Never", 6)
    (said,) = re.findall(r"Exit codes ([\d, and]+) \(", DOCS)
    assert set(map(int, re.findall(r"\d+", said))) == FINAL


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_job_takes_its_arguments(name):
    one = container(overlay(name, "Job")["spec"]["template"])
    seen = variables(one)
    words = [of_kubernetes(word, seen) for word in one["args"]]
    config = load_config(words, seen)
    assert "command" not in one  # the image's: spark-embed
    spark = of_kubernetes(seen.get("PYSPARK_SUBMIT_ARGS", ""), seen)
    if name == "cpu":
        assert (config.num_workers, config.require_gpu, spark) == (4, False, "")
    else:
        assert (config.num_workers, config.require_gpu) == (None, True)
        # One task, which has all cores: a GPU has one model.
        assert "--master local[7] --conf spark.task.cpus=7 " in spark
        (settings,) = re.findall(r"--properties-file (\S+)", spark)
        assert (one["workingDir"], (REPOSITORY / settings).exists()) == ("/opt/spark_embed", True)
        assert [variable["name"] for variable in one["env"]][0::2] == ["CPUS", "PYSPARK_SUBMIT_ARGS"]
    assert (config.env, config.input_dir) == ("prod", "s3://BUCKET/images")
    assert config.output_dir == "s3://BUCKET/embeddings"


def test_spot_nodes_are_for_the_job_and_for_executors():
    spot = ("karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType", "cloud.google.com/gke-spot")
    spot += ("kubernetes.azure.com/scalesetpriority",)

    def terms(pod: dict) -> list[set[tuple[str, str]]]:
        affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        return [
            {(one["key"], one["operator"]) for one in term["matchExpressions"]}
            for term in affinity["nodeSelectorTerms"]
        ]

    job, service = pods("spot")
    driver, executor = spark_pods()
    assert terms(job) == [{(name, "In")} for name in spot]  # one of them will do
    assert "affinity" not in service["spec"]
    operators = ("NotIn", "NotIn", "DoesNotExist", "NotIn")
    assert terms(driver) == [set(zip(spot, operators, strict=True))]  # none of them
    for pod in (job, executor):
        assert set(spot[2:]) < {one["key"] for one in pod["spec"]["tolerations"]}
    # Of the 30 s of a notice GKE gives pods 15.
    assert job["spec"]["terminationGracePeriodSeconds"] <= 15


def test_the_operators_application_is_one_to_its_definition():
    (application,) = build("spark")  # not the templates
    jsonschema.validate(application, SCHEMA)
    for pod, path in zip(("driver", "executor"), TEMPLATES, strict=True):
        assert application["spec"][pod]["template"] == {"spec": read_yaml(path)["spec"]}
    for place, name in ((("spec",), "sparkConfs"), (("spec", "executor"), "gpus")):
        broken = deepcopy(application)
        where = broken
        for step in place:
            where = where[step]
        where[name] = {}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


def test_the_operators_settings_are_those_of_gpu_conf():
    spec = of_kind(build("spark"), "SparkApplication")["spec"]
    executor = spec["executor"]
    found = {
        **spec["sparkConf"],
        "spark.executor.cores": str(executor["cores"]),
        "spark.executor.memory": executor["memory"],
        "spark.executor.memoryOverhead": executor["memoryOverhead"],
    }
    wanted = read_properties(str(conf_folder() / "gpu.conf"))
    grace_s = read_yaml("spark/executor.yaml")["spec"]["terminationGracePeriodSeconds"]
    assert found == {
        **wanted,
        # The image has it elsewhere than a working folder of YARN has.
        "spark.executor.resource.gpu.discoveryScript": "/opt/spark_embed/conf/gpus.sh",
        "spark.kubernetes.executor.terminationGracePeriodSeconds": f"{grace_s}s",
    }
    assert int(executor["coreRequest"]) < executor["cores"]
    config = load_config(spec["arguments"], {})
    assert config.output_dir == "s3://BUCKET/embeddings"
    accounts = {one["metadata"]["name"] for one in build("accounts") if one["kind"] == "ServiceAccount"}
    assert accounts == {spec["driver"]["serviceAccount"], executor["serviceAccount"]}
    assert {pod["spec"]["serviceAccountName"] for pod in pods("gpu")} == {executor["serviceAccount"]}
    pyspark = re.search(r"^pyspark==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert spec["sparkVersion"] == pyspark[1]


def test_the_pages_commands_name_what_is_there():
    used = re.findall(
        r"kubectl apply -k deploy/kubernetes/(\S+)(?: -l app.kubernetes.io/component=(\w+))?", DOCS
    )
    assert {folder for folder, _ in used} == {"accounts", "overlays/gpu", "overlays/cpu", "spark"}
    components = {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in build("overlays/gpu")}
    assert components == {"job", "cronjob", "service"}
    assert {component for _, component in used if component} == components
    for path in re.findall(r"`((?:base|accounts|overlays|spark)/[\w./]*)`", DOCS):
        assert (KUBERNETES / path).exists(), path
