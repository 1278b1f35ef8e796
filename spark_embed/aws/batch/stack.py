"""The stack of CloudFormation that jobs run in: made, or changed, out of a template that people edit."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from spark_embed.aws.batch.api import call
from spark_embed.aws.calls import make_client
from spark_embed.aws.waiting import Detached, Say, news
from spark_embed.errors import CloudError, ConfigError, one_line

Request = dict[str, Any]

_UNCHANGED = "No updates are to be performed"
_ABSENT = "does not exist"


class _Loader(yaml.SafeLoader):
    """Reads a template as far as its parameters: what !Ref and the like stand for is AWS's to say."""


_Loader.add_multi_constructor("!", lambda loader, tag, node: f"!{tag}")


def create_stack(stack: str, template: str, given: Sequence[str]) -> Request:
    """Return the parameters of CreateStack; asks nobody.

    Args:
        stack: its name.
        template: the path of its file (--template).
        given: --parameter, NAME=VALUE each.

    Raises:
        ConfigError: the file cannot be read, or has no such parameter.
    """
    body, known = _read_template(template)
    values = {}
    for text in given:
        name, equals, values[name] = text.partition("=")
        if not equals or name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ConfigError(f"--parameter {text}: must be NAME=VALUE, NAME one of {template}'s; {meant}")
    return {
        "StackName": stack,
        "TemplateBody": body,
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": value} for name, value in sorted(values.items())
        ],
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": "project", "Value": "spark_embed"}],
    }


def set_up(region: str | None, request: Request, say: Say) -> dict[str, str]:
    """Make the stack, or change it as far as it is another; returns its outputs.

    Raises:
        CloudError: AWS refuses, or the stack does not come to be: with the first resource that failed.
        Detached: Ctrl-C.
    """
    client = make_client("cloudformation", region)
    stack = request["StackName"]
    once = {**request, "ClientRequestToken": uuid.uuid4().hex}  # the call may be made again
    if (before := _find(client, stack)) is None:
        call(client, "CreateStack", **once)
    else:
        _update(client, once, before, say)
    try:
        for seen in news(lambda: _describe(client, stack), lambda seen: _text(stack, seen), say):
            if seen["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                return {entry["OutputKey"]: entry["OutputValue"] for entry in seen.get("Outputs", [])}
            if not seen["StackStatus"].endswith("_IN_PROGRESS"):
                raise CloudError(f"{_text(stack, seen)}: {_first_failure(client, stack)}")
    except KeyboardInterrupt as exc:
        raise Detached(f"not waiting any more; stack {stack} goes on: the same command follows it") from exc
    raise AssertionError  # it never ends by itself


def _update(client: Any, request: Request, before: Mapping[str, Any], say: Say) -> None:
    """Change a stack; parameters that are not given stay as they are."""
    there = {entry["ParameterKey"] for entry in before.get("Parameters", [])}
    given = {entry["ParameterKey"] for entry in request["Parameters"]}
    known = yaml.load(request["TemplateBody"], _Loader)["Parameters"]  # noqa: S506  a SafeLoader
    kept = [{"ParameterKey": name, "UsePreviousValue": True} for name in sorted((there & set(known)) - given)]
    try:
        call(client, "UpdateStack", **{**request, "Parameters": [*request["Parameters"], *kept]})
    except CloudError as exc:
        if _UNCHANGED not in str(exc):
            raise
        say(f"stack {request['StackName']} is so already")


def _read_template(path: str) -> tuple[str, Mapping[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            body = file.read()
        return body, yaml.load(body, _Loader)["Parameters"]  # noqa: S506  a SafeLoader
    except OSError as exc:
        raise ConfigError(f"--template {path}: cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError) as exc:
        raise ConfigError(f"--template {path}: is no template with Parameters: {one_line(exc, 120)}") from exc


def _find(client: Any, stack: str) -> Mapping[str, Any] | None:
    try:
        return _describe(client, stack)
    except CloudError as exc:
        if _ABSENT in str(exc):
            return None
        raise


def _describe(client: Any, stack: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = call(client, "DescribeStacks", StackName=stack)["Stacks"][0]
    return found


def _text(stack: str, seen: Mapping[str, Any]) -> str:
    return f"stack {stack} {seen['StackStatus']}"


def _first_failure(client: Any, stack: str) -> str:
    """Return what failed first of what was done last."""
    failed = "nobody says why"
    for event in call(client, "DescribeStackEvents", StackName=stack)["StackEvents"]:  # the newest first
        status, reason = str(event.get("ResourceStatus")), str(event.get("ResourceStatusReason", ""))
        if event.get("LogicalResourceId") == stack and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
        if status.endswith("_FAILED") and "cancelled" not in reason:
            failed = one_line(f"{event.get('LogicalResourceId')}: {reason}")
    return failed
