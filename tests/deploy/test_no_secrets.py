"""No secret is in what is shipped or generated: by the shapes of keys, and by some in the environment."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from spark_embed.cli.main import main

from support.checkout import REPOSITORY

# What people get out of this repository: all but tests, whose keys are for servers of their own.
SHIPPED = (
    ".github", "benchmarks", "conf", "deploy", "docs", "emr", "jobs", "models", "spark_embed", "tools",
    "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md", "constraints.txt", "pyproject.toml",
)  # fmt: skip
NOT_OURS = {"__pycache__", ".cache", "dist"}

# The shape of a key of each kind, and one of that shape; in two parts, lest scanners find it here.
KEYS = {
    "AWS, its id": (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "AKIA" + "IOSFODNN7EXAMPLX"),
    "AWS, secret": (
        r"(?i)aws.{0,20}secret.{0,20}['\"=: ]\s*[0-9a-z/+]{40}\b",
        "aws_secret_access_key=" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ),
    "GitHub": (r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{22,})", "ghp_" + "0123456789" * 4),
    "Hugging Face": (r"\bhf_[0-9A-Za-z]{30,}", "hf_" + "abcdefghij" * 4),
    "OpenAI and the like": (r"\bsk-[0-9A-Za-z_-]{20,}", "sk-proj-" + "0123456789" * 4),
    "Databricks": (r"\bdapi[0-9a-f]{32}\b", "dapi" + "0123456789abcdef" * 2),
    "Docker Hub": (r"\bdckr_pat_[\w-]{20,}", "dckr_pat_" + "abcdefghij" * 3),
    "PyPI": (r"\bpypi-AgEI[\w-]{20,}", "pypi-AgEI" + "abcdefghij" * 3),
    "a token": (r"\beyJ[\w-]{9,}\.eyJ[\w-]{9,}\.[\w-]{9,}", "eyJhbGciOiJI" + ".eyJzdWIiOiIx.aaaaaaaaaa"),
    "a private key": (r"-----BEGIN (?:\w+ )*PRIVATE KEY-----", "-----BEGIN RSA " + "PRIVATE KEY-----"),
}  # fmt: skip

# What somebody who submits may have in the environment.
PLANTED = {
    name: f"planted-{number}-never-to-be-seen"
    for number, name in enumerate(
        (
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATABRICKS_TOKEN",
            "GITHUB_TOKEN", "HF_TOKEN", "INFERENCE_API_KEY", "OPENAI_API_KEY", "UPSTAGE_API_KEY",
        )
    )
}  # fmt: skip


def find_keys(text: str) -> list[str]:
    return [f"{kind}: {found[0]}" for kind, (shape, _) in KEYS.items() for found in re.finditer(shape, text)]


def shipped_files() -> Iterator[Path]:
    for name in SHIPPED:
        path = REPOSITORY / name
        found = [path] if path.is_file() else path.rglob("*")
        yield from (file for file in found if file.is_file() and NOT_OURS.isdisjoint(file.parts))


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_of_each_kind_would_be_found(kind):
    assert [found.partition(":")[0] for found in find_keys(f"TOKEN: '{KEYS[kind][1]}'\n")] == [kind]


def test_no_file_that_is_shipped_has_a_key_in_it():
    files = {str(path.relative_to(REPOSITORY)): path.read_bytes() for path in shipped_files()}
    assert len(files) > 300
    found = {name: find_keys(data.decode("latin-1")) for name, data in files.items()}
    assert {name: keys for name, keys in found.items() if keys} == {}


@pytest.fixture
def planted(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)


def secrets_in(text: str) -> list[str]:
    return [name for name, value in PLANTED.items() if value in text] + find_keys(text)


JOB = "-- --input_dir s3://b/in --output_dir s3://b/out --secrets HF_TOKEN=spark_embed/hub"
DRY_RUNS = {
    "emr create-cluster": "emr create-cluster --cluster CLUSTER --dry_run",
    "emr submit": f"emr submit --cluster CLUSTER --dry_run {JOB}",
    "emr submit to a cluster": f"emr submit --cluster CLUSTER --cluster_id j-1 --dry_run {JOB}",
    "batch setup": "batch setup --dry_run --parameter ImageTag=1",
    "batch submit": f"batch submit --dry_run {JOB}",
}


@pytest.mark.parametrize("command", DRY_RUNS)
def test_what_is_sent_to_aws_names_secrets_and_has_none(
    planted, write_cluster, capsys, caplog, monkeypatch, command
):
    from spark_embed.cli.commands import COMMANDS

    monkeypatch.chdir(REPOSITORY)
    words = DRY_RUNS[command].replace("CLUSTER", str(write_cluster())).split()
    if words[0] not in COMMANDS:
        pytest.skip(f"there is no 'spark-embed {words[0]}'")
    assert main(words) == 0
    said = capsys.readouterr()
    if "submit" in command:
        assert "HF_TOKEN=spark_embed/hub" in said.out
    assert secrets_in(said.out + said.err + caplog.text) == []


@pytest.mark.slow
def test_the_wheel_has_none(planted, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (path,) = tmp_path.iterdir()
    with zipfile.ZipFile(path) as wheel:
        found = {name: secrets_in(wheel.read(name).decode("latin-1")) for name in wheel.namelist()}
    assert len(found) > 200
    assert {name: keys for name, keys in found.items() if keys} == {}


# As variables of a container that hold a secret are called.
SECRET_NAME = re.compile(r"(?i)(?:token|secret|password|(?:api|access)_?key)")


def test_containers_are_given_secrets_by_reference():
    """In manifests and templates: {name: HF_TOKEN, valueFrom: ...}, never {name: HF_TOKEN, value: hf_...}."""
    assert list(literals({"env": [{"name": "HF_TOKEN", "value": "hf"}]})) == ["HF_TOKEN"]
    assert list(literals({"Environment": [{"Name": "API_KEY", "Value": "k"}]})) == ["API_KEY"]
    for path in (REPOSITORY / "deploy").rglob("*.y*ml"):
        for document in yaml.load_all(path.read_text(), _AnyTag):
            assert list(literals(document)) == [], path
            if isinstance(document, dict) and document.get("kind") == "Secret":
                assert not document.get("data"), path
                assert not document.get("stringData"), path


def literals(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        lower = {str(key).lower(): one for key, one in value.items()}
        if SECRET_NAME.search(str(lower.get("name", ""))) and lower.get("value"):
            yield lower["name"]
        for one in value.values():
            yield from literals(one)
    elif isinstance(value, list):
        for one in value:
            yield from literals(one)


class _AnyTag(yaml.SafeLoader):
    """Takes CloudFormation's !Ref and the like for nothing."""


_AnyTag.add_multi_constructor("!", lambda loader, tag, node: None)
