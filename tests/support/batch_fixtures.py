"""Fixtures of the tests of AWS Batch: a server for its API, with the stack made."""

from functools import partial

import pytest
import yaml

from support.checkout import REPOSITORY

TEMPLATE = REPOSITORY / "deploy/aws_batch/template.yaml"


class _Loader(yaml.SafeLoader):
    """Reads a template with its functions as they stand in JSON."""


def _function(loader, name, node):
    build = {
        yaml.ScalarNode: loader.construct_scalar,
        yaml.SequenceNode: partial(loader.construct_sequence, deep=True),
    }[type(node)]
    value = build(node)
    if name == "GetAtt":
        return {"Fn::GetAtt": value.split(".")}
    return {"Ref" if name == "Ref" else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="session")
def template() -> dict:
    """The template, its functions as they stand in JSON."""
    return yaml.load(TEMPLATE.read_text(), _Loader)


@pytest.fixture(scope="session")
def batch_server(s3_server, template):
    """Batch's API and those around it, on the loopback, with the stack spark-embed."""
    from support.batch_server import BatchServer  # moto takes a second

    with BatchServer(s3_server.region) as server, pytest.MonkeyPatch.context() as patch:
        s3_server.set_environment(patch)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        server.outputs = make_stack(server, template, "spark-embed")
        yield server


def make_stack(server, template, name: str) -> dict[str, str]:
    """Make a stack as `setup` does, with each parameter named, for moto takes a list's default for a text."""
    from spark_embed.aws.batch import stack

    request = stack.create_stack(name, str(TEMPLATE), stack_parameters(server, template))
    return stack.set_up(None, request, lambda said: None)


def stack_parameters(server, template) -> list[str]:
    """Return all parameters of the template, NAME=VALUE each."""
    vpc_id, subnets = server.network()
    values = {name: str(one["Default"]) for name, one in template["Parameters"].items() if "Default" in one}
    values |= {
        "VpcId": vpc_id,
        "Subnets": ",".join(subnets[:2]),
        "InputBuckets": "in,models",
        "OutputBucket": "out",
    }
    return [f"{name}={value}" for name, value in values.items()]


@pytest.fixture
def batch(batch_server, bucket, monkeypatch):
    """The same for one test, whose environment leads to it, and which does not wait."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", batch_server.endpoint)
    monkeypatch.setattr("spark_embed.aws.waiting.POLL_S", 0.02)
    batch_server.requests.clear()
    batch_server.environment = {}
    return batch_server


@pytest.fixture
def batch_command(capsys):
    """Give `spark-embed batch` to this process; returns its exit code, its stdout and its stderr."""

    def batch_command(*argv) -> tuple[int, str, str]:
        from spark_embed.cli.main import main

        code = main(["batch", *map(str, argv)])
        said = capsys.readouterr()
        return code, said.out, said.err.strip()

    return batch_command
