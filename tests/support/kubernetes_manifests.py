"""deploy/kubernetes as it would be applied: built by kustomize, checked by Kubernetes' own schemas."""

import os
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from make_go_program import KUSTOMIZE

from support.checkout import REPOSITORY

KUBERNETES = REPOSITORY / "deploy/kubernetes"
VERSIONS = ("1.37", "1.35")
OVERLAYS = ("cpu", "gpu", "spot")
TEMPLATES = ("spark/driver.yaml", "spark/executor.yaml")
DOCS = (REPOSITORY / "docs/kubernetes.md").read_text()

Manifest = dict[str, Any]


def read_yaml(path: str) -> Any:
    """Return a file of one object below deploy/kubernetes, as it is."""
    return yaml.safe_load((KUBERNETES / path).read_text())


@cache
def _built(folder: str) -> str:
    if not KUSTOMIZE.path.exists():
        reason = f"no {KUSTOMIZE.path}: `make kustomize` builds it, or says why not"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    command = [KUSTOMIZE.path, "build", KUBERNETES / folder]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return built.stdout


def build(folder: str) -> list[Manifest]:
    """Return what `kubectl apply -k` of a folder there would apply; skips the test without kustomize."""
    return list(yaml.safe_load_all(_built(folder)))


def of_kind(objects: list[Manifest], kind: str) -> Manifest:
    """Return the one object of a kind."""
    (one,) = (one for one in objects if one["kind"] == kind)
    return one


def overlay(name: str, kind: str) -> Manifest:
    """Return the one object of a kind in an overlay."""
    return of_kind(build(f"overlays/{name}"), kind)


def pods(name: str) -> list[Manifest]:
    """Return the templates of an overlay's pods: of the job, of the service."""
    return [overlay(name, kind)["spec"]["template"] for kind in ("Job", "Deployment")]


def spark_pods() -> list[Manifest]:
    """Return the templates that Spark gets: of the driver, of executors."""
    return [read_yaml(path) for path in TEMPLATES]


def validate(one: Mapping[str, Any], version: str) -> None:
    """Check an object by the schema of a Kubernetes version, which knows no other fields.

    Raises:
        kubernetes_validate.ValidationError: a field is unknown, missing or of another type.
    """
    kubernetes_validate.validate(dict(one), version, strict=True)


def container(pod: Mapping[str, Any]) -> Manifest:
    """Return the one container of a pod, or of a template of pods."""
    (one,) = pod["spec"]["containers"]
    return one


def variables(one: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's variables as its program would see them."""
    values = {}
    for variable in one["env"]:
        came = variable.get("valueFrom", {})
        if "resourceFieldRef" in came:
            kind, _, name = came["resourceFieldRef"]["resource"].partition(".")
            values[variable["name"]] = one["resources"][kind][name]
        elif "secretKeyRef" in came:
            values[variable["name"]] = "of-a-secret"
        else:
            values[variable["name"]] = variable["value"]
    return values
