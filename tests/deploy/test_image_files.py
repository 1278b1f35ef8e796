"""What deploy/images says: the Dockerfile, scripts of its images, compose files; nothing is built here."""

import fnmatch
import json
import re
import shlex
import subprocess
import tomllib
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import yaml

from support.checkout import REPOSITORY
from support.commands import BIN

FOLDER = REPOSITORY / "deploy" / "images"
COMPOSE = ("docker-compose.yml", "docker-compose.job.yml")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in their order, without comments and ends of lines."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, value) for name, _, value in (line.partition(" ") for line in lines if line)]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def stage(name: str) -> dict[str, str]:
    """Return the last of each instruction in one stage."""
    found: dict[str, str] = {}
    inside = False
    for instruction, value in instructions():
        if instruction == "FROM":
            inside = value.endswith(f" AS {name}")
        elif inside:
            found[instruction] = value
    return found


def compose(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def requirements():
    """The function of deploy/images/requirements.py."""
    spec = spec_from_file_location("requirements", FOLDER / "requirements.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *extras, without=(): list(
        module.requirements(REPOSITORY / "pyproject.toml", extras, without)
    )


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["shellcheck", "entrypoint.sh", "decom.sh"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE],
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command):
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_copied_is_there_and_is_sent_to_the_builder():
    rules = (REPOSITORY / ".dockerignore").read_text().split("*\n", 1)[1].splitlines()
    sent = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((REPOSITORY / path).exists() for path in sent)
    for line in values("COPY"):
        words = [word for word in shlex.split(line) if not word.startswith("--chmod")]
        if words[0].startswith("--from"):
            continue
        for source in words[:-1]:
            assert (REPOSITORY / source).exists(), source
            assert any(source == path or source.startswith(f"{path}/") for path in sent), source
    assert not any(
        fnmatch.fnmatch(name, rule) for name in (".git", ".env", "demo", "s3.env") for rule in sent
    )


def test_the_images_are_those_that_everything_here_names():
    names = [line.split(" AS ")[1] for line in values("FROM")]
    assert {"job", "executor", "service"} < set(names)
    assert names[-1] == "service"  # docker run of what is built without --target serves
    assert [value for value in values("ARG") if value.startswith("VERSION=")] == [
        f"VERSION={PROJECT['version']}"
    ] * 2
    for name in COMPOSE:
        for service in compose(name)["services"].values():
            if "build" in service:
                target = service["build"]["target"]
                assert service["image"] == f"spark-embed-{target}:{PROJECT['version']}"
                assert (FOLDER / service["build"]["context"]).resolve() == REPOSITORY
                assert target in names


def test_each_image_runs_as_sparks_user_by_a_command_without_a_shell():
    for name in ("job", "executor", "service"):
        assert stage(name)["USER"] == "185"
        assert json.loads(stage(name)["ENTRYPOINT"])
    assert json.loads(stage("job")["ENTRYPOINT"])[1:] == ["spark-embed"]
    assert re.search("useradd .* --uid 185 ", stage("python")["RUN"])


def test_the_port_is_one():
    service = stage("service")
    command = json.loads(service["ENTRYPOINT"])
    assert command[2:] == ["--", "spark-embed", "serve", "--host", "0.0.0.0", "--port", service["EXPOSE"]]
    assert f"http://127.0.0.1:{service['EXPOSE']}/ready" in service["HEALTHCHECK"]
    file = compose("docker-compose.yml")
    (port,) = file["services"]["service"]["ports"]
    assert port.endswith(f":{service['EXPOSE']}")
    (scraped,) = yaml.safe_load(file["configs"]["prometheus"]["content"])["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"service:{service['EXPOSE']}"]}]


def test_grafana_is_given_the_dashboard_and_prometheus():
    file = compose("docker-compose.yml")
    (mount,) = file["services"]["grafana"]["volumes"]
    source, target, _ = mount.split(":")
    assert "panels" in json.loads((FOLDER / source).read_text())
    (provider,) = yaml.safe_load(file["configs"]["dashboards"]["content"])["providers"]
    assert target.startswith(provider["options"]["path"])
    (datasource,) = yaml.safe_load(file["configs"]["datasource"]["content"])["datasources"]
    assert datasource["url"].split("/")[2].split(":")[0] in file["services"]


def test_credentials_are_names_of_variables_only():
    for name in COMPOSE:
        for service in compose(name)["services"].values():
            given = service.get("environment", {})
            pairs = given.items() if isinstance(given, dict) else (line.split("=") for line in given)
            for variable, *value in pairs:
                if re.search("KEY|SECRET|TOKEN|PASSWORD", variable):
                    assert not value or re.fullmatch(r"\$\{\w+(:\?[^}]+)?\}", value[0]), variable


def test_requirements_are_the_projects(requirements):
    extras = shlex.split(next(v for v in values("ARG") if v.startswith("JOB_EXTRAS=")).partition("=")[2])
    job, service = requirements(*extras[0].split()), requirements("service", without=["pyspark"])
    assert set(PROJECT["dependencies"]) < set(job)
    assert not [line for line in service if line.startswith("pyspark")]
    assert set(service) - set(PROJECT["dependencies"]) == set(PROJECT["optional-dependencies"]["service"])
    with pytest.raises(SystemExit, match="no extra heif: there are heic, "):
        requirements("heif")


def started_by_entrypoint(tmp_path, *argv: str, **environ: str) -> list[str]:
    """Return the words that the images' entrypoint starts, instead of starting them."""
    fake = tmp_path / "tini"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SPARK_HOME": "/opt/spark", **environ}
    done = subprocess.run(
        [FOLDER / "entrypoint.sh", *argv], env=environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()[2:]


def test_entrypoint_starts_what_spark_on_kubernetes_asks_for(tmp_path):
    assert started_by_entrypoint(tmp_path, "spark-embed", "a b") == ["spark-embed", "a b"]
    assert started_by_entrypoint(tmp_path, "driver", "--x", "y z", SPARK_DRIVER_BIND_ADDRESS="10.0.0.1") == [
        *("/opt/spark/bin/spark-submit", "--deploy-mode", "client"),
        *("--conf", "spark.driver.bindAddress=10.0.0.1", "--x", "y z"),
    ]
    pod = {
        "SPARK_DRIVER_URL": "spark://driver:7078",
        "SPARK_EXECUTOR_ID": "3",
        "SPARK_EXECUTOR_CORES": "4",
        "SPARK_EXECUTOR_MEMORY": "2g",
        "SPARK_APPLICATION_ID": "app",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
        "SPARK_EXECUTOR_POD_NAME": "pod",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_CONF_DIR": "/conf",
        "SPARK_EXTRA_CLASSPATH": "/extra/*",
    }
    options = {f"SPARK_JAVA_OPT_{i}": f"-Dnumber={i} of twelve" for i in range(12)}
    assert started_by_entrypoint(tmp_path, "executor", **pod, **options) == [
        *("java", *options.values(), "-Xms2g", "-Xmx2g", "-cp", "/conf:/opt/spark/jars/*:/extra/*"),
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", "spark://driver:7078", "--executor-id", "3", "--cores", "4", "--app-id", "app"),
        *("--hostname", "10.0.0.2", "--resourceProfileId", "0", "--podName", "pod"),
    ]


def test_decommissioning_tells_java_and_waits_for_it(tmp_path):
    """In a PID namespace of its own: it tells every Java that it sees."""
    java = tmp_path / "java"
    java.write_text(
        f'#!/bin/bash\ntrap "echo told >> {tmp_path}/log; exit" PWR\necho $$\nwhile :; do :; done\n'
    )
    java.chmod(0o755)
    script = f"{java} | (read -r _; {FOLDER}/decom.sh; echo done >> {tmp_path}/log)"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("a namespace of PIDs cannot be made here")
    assert (tmp_path / "log").read_text() == "told\ndone\n", done.stderr
