"""emr/policies/*.json: what AWS would refuse, and whether they allow what is asked of AWS."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from botocore.loaders import Loader
from botocore.model import ServiceModel

from support.checkout import REPOSITORY
from support.commands import BIN

POLICIES = REPOSITORY / "emr/policies"

# Of them the API has no operation of the same name.
PERMISSIONS = {"iam:PassRole", "s3:ListBucket", "s3:ListBucketMultipartUploads"}
SERVICES = {"elasticmapreduce": "emr"}


def read(name: str) -> list[dict]:
    return json.loads((POLICIES / f"{name}.json").read_text())["Statement"]


def actions_of(statements: list[dict]) -> set[str]:
    return {action for one in statements for action in _list(one["Action"])}


def _list(value) -> list:
    return value if isinstance(value, list) else [value]


def check(policy: str) -> str:
    done = subprocess.run([BIN / "parliament"], input=policy, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.json")), ids=lambda path: path.stem)
def test_actions_resources_and_conditions_fit_together(path: Path):
    policy = path.read_text()
    assert check(policy) == ""
    assert "Unknown action" in check(policy.replace("Get", "Got").replace("Pass", "Past"))


def test_every_action_is_one_of_the_services():
    for action in sorted(actions_of(read("submitter") + read("instance-profile")) - PERMISSIONS):
        service, _, operation = action.partition(":")
        model = ServiceModel(Loader().load_service_model(SERVICES.get(service, service), "service-2"))
        assert operation in model.operation_names, action


def test_who_submits_may_do_what_the_commands_ask_of_emr():
    """As far as their code names operations."""
    model = ServiceModel(Loader().load_service_model("emr", "service-2"))
    sources = [
        *(REPOSITORY / "spark_embed/aws/emr").glob("*.py"),
        *(REPOSITORY / "spark_embed/cli").glob("*.py"),
    ]
    words = {word for source in sources for word in re.findall(r'"(\w+)"', source.read_text())}
    allowed = {action.partition(":")[2] for action in actions_of(read("submitter"))}
    assert words & set(model.operation_names) <= allowed


def test_roles_are_given_to_aws_alone_and_nothing_is_allowed_everywhere():
    for statement in read("submitter") + read("instance-profile") + read("service-role"):
        actions = _list(statement["Action"])
        assert not any("*" in action for action in actions)
        if "iam:PassRole" in actions:
            assert "iam:PassedToService" in statement["Condition"]["StringLike"]
        if "*" in _list(statement["Resource"]) and actions != [
            "elasticmapreduce:ListClusters"
        ]:  # takes no other
            assert actions == ["elasticmapreduce:RunJobFlow"]
            assert "aws:RequestTag/project" in statement["Condition"]["StringEquals"]


@pytest.mark.parametrize("name", ["cluster", "cluster-cpu"])
def test_who_submits_may_pass_the_roles_that_the_shipped_files_name(name):
    cluster = yaml.safe_load((REPOSITORY / f"emr/{name}.yaml").read_text())
    passed = [
        str(role).rpartition("/")[2]
        for one in read("submitter")
        if "iam:PassRole" in _list(one["Action"])
        for role in _list(one["Resource"])
    ]
    assert sorted(passed) == sorted([cluster["service_role"], cluster["instance_profile"]])
