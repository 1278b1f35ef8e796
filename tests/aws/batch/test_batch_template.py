"""deploy/aws_batch/template.yaml: what AWS would refuse, what it allows, and which attempts are the last."""

import ast
import json
import re
import subprocess
import tomllib
from fnmatch import fnmatchcase

import pytest
from moto.core import DEFAULT_ACCOUNT_ID

from spark_embed.errors import EXIT_CODES

from support.aws_server import service_model
from support.batch_fixtures import TEMPLATE
from support.checkout import REPOSITORY
from support.commands import BIN, run_command


@pytest.fixture
def policies(batch_server) -> dict[str, list[dict]]:
    """The statements of the stack's own policies, as the stack has them."""
    from moto.iam.models import iam_backends

    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    (job,) = (role for role in iam.roles.values() if role.name.startswith("spark-embed-JobRole"))
    submitter = iam.managed_policies[batch_server.outputs["SubmitterPolicy"]].versions[0]
    documents = {"job": job.policies["data"], "submitter": submitter.document}
    # Moto keeps what a condition leaves out.
    return {
        name: [one for one in ast.literal_eval(str(document))["Statement"] if one]
        for name, document in documents.items()
    }


def _list(value) -> list:
    return value if isinstance(value, list) else [value]


def actions_of(statements: list[dict]) -> set[str]:
    return {action for one in statements for action in _list(one["Action"])}


@pytest.mark.slow
def test_cloudformation_would_take_the_template(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(TEMPLATE.read_text().replace("EvaluateOnExit:", "EvaluateOnExits:"))
    done = run_command(BIN / "cfn-lint", "--format", "parseable", TEMPLATE, broken)
    said = done.stdout.splitlines()
    assert any("EvaluateOnExits" in line for line in said)
    assert [line for line in said if not line.startswith(f"{broken}:")] == []


@pytest.mark.slow
def test_actions_and_resources_of_its_policies_fit_together(policies):
    def check(statements) -> str:
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        return subprocess.run(
            [BIN / "parliament"], input=document, capture_output=True, text=True, check=False
        ).stdout

    assert check([*policies["job"], *policies["submitter"]]) == ""


def test_nothing_is_allowed_everywhere_but_to_look(policies):
    for statement in [*policies["job"], *policies["submitter"]]:
        assert not any("*" in action for action in _list(statement["Action"]))
        if "*" in _list(statement["Resource"]):
            assert all(action.startswith("batch:Describe") for action in statement["Action"])
    allowed = {one["Sid"]: _list(one["Resource"]) for one in policies["job"]}
    assert allowed["ReadInput"] == ["arn:aws:s3:::in/*", "arn:aws:s3:::models/*"]
    assert allowed["WriteOutput"] == ["arn:aws:s3:::out/*"]
    assert "ReadSecrets" not in allowed  # no --parameter SecretArns


def test_who_submits_may_do_what_the_commands_ask_for(policies):
    """As far as their code names operations; `setup` is an administrator's."""
    room = REPOSITORY / "spark_embed/aws/batch"
    sources = [
        *(room / f"{name}.py" for name in ("environments", "jobs", "logs")),
        REPOSITORY / "spark_embed/cli/batch.py",
    ]
    words = {word for source in sources for word in re.findall(r'"(\w+)"', source.read_text())}
    for service in ("batch", "logs"):
        allowed = {action.partition(":")[2] for action in actions_of(policies["submitter"])}
        assert words & set(service_model(service).operation_names) <= allowed


def action_for(rules: list[dict], **ended: str) -> str:
    """Return what Batch does after an attempt, by the first rule that holds; without one it tries again."""
    for rule in rules:
        asked = {key: glob for key, glob in rule.items() if key != "action"}
        if all(fnmatchcase(ended.get(key, ""), glob) for key, glob in asked.items()):
            return rule["action"].upper()
    return "RETRY"


def test_only_what_lost_its_instance_is_tried_again(batch_server):
    strategy = batch_server.definition("spark-embed").retry_strategy
    rules = strategy["evaluateOnExit"]
    ends = "Essential container in task exited"
    after_signal = {"130", "143"}  # SIGTERM: ours, and Python's before that is in place
    assert len(rules) <= 5
    assert int(strategy["attempts"]) > 1
    for code in {*map(str, EXIT_CODES), "137", "139", *after_signal} - {"0"}:
        action = action_for(rules, onExitCode=code, onStatusReason=ends)
        assert action == ("RETRY" if code in after_signal else "EXIT"), code
    assert action_for(rules, onStatusReason="Host EC2 (instance i-0123456789) terminated.") == "RETRY"
    assert (
        action_for(rules, onReason="CannotPullContainerError: not found", onStatusReason="Task failed")
        == "EXIT"
    )
    assert (
        action_for(rules, onExitCode="137", onReason="OutOfMemoryError: killed", onStatusReason=ends)
        == "EXIT"
    )


def resolve(value, conditions: dict[str, bool]):
    """Return a part of the template as it is under its conditions."""
    if isinstance(value, list):
        items = [resolve(item, conditions) for item in value]
        return [item for item in items if item != {"Ref": "AWS::NoValue"}]
    if isinstance(value, dict) and "Fn::If" in value:
        name, yes, no = value["Fn::If"]
        return resolve(yes if conditions[name] else no, conditions)
    if isinstance(value, dict):
        return {key: resolve(item, conditions) for key, item in value.items()}
    return value


@pytest.mark.parametrize("has", [True, False])
def test_gpus_spot_and_secrets_are_there_when_they_are_asked_for(template, has):
    conditions = dict.fromkeys(template["Conditions"], has)
    of = {name: one["Properties"] for name, one in resolve(template["Resources"], conditions).items()}
    wanted = [one["Type"] for one in of["JobDefinition"]["ContainerProperties"]["ResourceRequirements"]]
    assert wanted == ["VCPU", "MEMORY", *(["GPU"] if has else [])]
    order = [one["ComputeEnvironment"]["Ref"] for one in of["Queue"]["ComputeEnvironmentOrder"]]
    assert order == [*(["SpotInstances"] if has else []), "OnDemandInstances"]
    assert template["Resources"]["SpotInstances"]["Condition"] == "UseSpot"
    for name in order:
        (image,) = of[name]["ComputeResources"]["Ec2Configuration"]
        assert image == {"ImageType": "ECS_AL2023_NVIDIA" if has else "ECS_AL2023"}
    statements = of["JobRole"]["Policies"][0]["PolicyDocument"]["Statement"]
    assert ("ReadSecrets" in [one["Sid"] for one in statements]) is has


def test_the_image_is_this_version(template):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert template["Parameters"]["ImageTag"]["Default"] == project["version"]
