"""The Databricks bundle as its CLI would deploy it: a target laid over it, its variables put in.

The CLI itself, which is no Python, does not run here. What it does is in its documentation and its sources
(databricks/cli, bundle/config): maps are merged, tasks and clusters of jobs by their keys.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from support.checkout import REPOSITORY

BUNDLE = REPOSITORY / "deploy/databricks"
RESOURCES = BUNDLE / "resources"

_KEYS = ("task_key", "job_cluster_key")
_CONTEXT = {
    "bundle.git.commit": "0123abc",
    "workspace.current_user.userName": "somebody@example.com",
    "workspace.root_path": "/Workspace/Shared/.bundle/spark_embed/prod",
}


def read_bundle(target: str, **variables: str) -> dict[str, Any]:
    """Return the bundle of a target; `variables` are as `--var` gives them."""
    bundle = yaml.safe_load((BUNDLE / "databricks.yml").read_text())
    for pattern in bundle.pop("include"):
        for path in sorted(BUNDLE.glob(pattern)):
            bundle = merged(bundle, yaml.safe_load(path.read_text()))
    overlay = bundle.pop("targets")[target]
    given = {**overlay.pop("variables", {}), **variables}
    bundle = merged(bundle, overlay)
    values = {f"var.{name}": one["default"] for name, one in bundle["variables"].items()}
    values |= {f"var.{name}": value for name, value in given.items()}
    values |= {**_CONTEXT, "bundle.target": target, "bundle.name": bundle["bundle"]["name"]}
    return with_values(bundle, values)


def merged(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        both = {name: merged(under[name], over[name]) for name in under.keys() & over.keys()}
        return {**under, **over, **both}
    if isinstance(under, list) and isinstance(over, list):
        keyed = {key_of(item): item for item in under}
        for item in over:
            keyed[key_of(item)] = merged(keyed.get(key_of(item)), item)
        return list(keyed.values())
    return over


def key_of(item: Any) -> Any:
    return next((item[name] for name in _KEYS if name in item), id(item)) if isinstance(item, dict) else item


def with_values(node: Any, values: dict[str, Any]) -> Any:
    """Put values in for ${...}, which may have such of their own; of a whole text the type is the value's."""
    if isinstance(node, dict):
        return {name: with_values(value, values) for name, value in node.items()}
    if isinstance(node, list):
        return [with_values(value, values) for value in node]
    if not isinstance(node, str):
        return node
    if (whole := re.fullmatch(r"\$\{([\w.]+)\}", node)) and whole[1] in values:
        return with_values(values[whole[1]], values)
    return re.sub(r"\$\{([\w.]+)\}", lambda found: str(with_values(values[found[1]], values)), node)


def local_file(path: str) -> Path:
    """Return the file of this checkout that a resource means, whose paths start from its own folder."""
    return (RESOURCES / path).resolve()
