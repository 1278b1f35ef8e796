"""What .github/ says is what GitHub, actionlint, zizmor and shellcheck take, and keeps its own rules."""

import json
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from make_go_program import ACTIONLINT

from support.checkout import REPOSITORY
from support.commands import BIN
from support.workflows import WORKFLOWS, jobs, read_workflow, run_steps, steps

# The shell steps that no test runs, and why.
NOT_RUN = {
    "ci/lint/ruff and mypy": "make lint types: what make test does",
    "ci/lint/workflows": "make test-workflows: this file",
    "ci/tests/make test": ".ci/run: what runs this test",
    "ci/tests/the notebook": "make test-notebook: tests/test_notebook.py",
    "ci/wheel/build": "make wheel: support/cluster_fixtures.py",
    "ci/images/the job says its version": "a container engine",
    "ci/images/the service is ready": "a container engine",
    "deploy/batch/install": "a whole environment of PyPI",
    "run/run/install": "a whole environment of PyPI",
}

DEPENDABOT = REPOSITORY / ".github/dependabot.yml"
POLICIES = sorted((REPOSITORY / "deploy/github").glob("*.json"))


def said_by(*command: object, **given) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False, **given
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def check_schema(*paths: Path) -> str:
    return said_by(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *paths)


def check_zizmor(path: Path) -> str:
    return said_by(BIN / "zizmor", "--offline", "--no-progress", "--persona", "pedantic", path)


def check_actionlint(*paths: Path) -> str:
    return said_by(ACTIONLINT.path, "-shellcheck", BIN / "shellcheck", "-pyflakes", "", *paths)


@pytest.fixture
def broken(tmp_path):
    """Write deploy.yml with something wrong in it."""

    def broken(old: str, new: str) -> Path:
        text = (REPOSITORY / ".github/workflows/deploy.yml").read_text()
        assert old in text
        path = tmp_path / ".github/workflows/deploy.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(old, new))
        return path

    return broken


def test_the_schema_takes_them(broken):
    assert check_schema(*WORKFLOWS) == ""
    assert "timeout-minuts" in check_schema(broken("timeout-minutes: 60", "timeout-minuts: 60"))
    renewed = said_by(BIN / "check-jsonschema", "--builtin-schema", "vendor.dependabot", DEPENDABOT)
    assert renewed == ""


def test_zizmor_finds_nothing_that_is_not_explained(broken):
    assert check_zizmor(REPOSITORY / ".github") == ""
    assert "template-injection" in check_zizmor(
        broken('image="$ECR/', 'image="${{ github.event.head_commit.message }}/')
    )
    ignored = [line for path in WORKFLOWS for line in _ignored(path)]
    assert all(before.strip().startswith("#") for before, _ in ignored), "say why in the line above"
    assert len(ignored) == 2


def _ignored(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines()
    return [pair for pair in pairwise(lines) if "zizmor: ignore" in pair[1]]


def test_actionlint_and_shellcheck_find_nothing(broken, pytestconfig):
    if not ACTIONLINT.path.exists():
        must = pytestconfig.getoption("workflows") and os.environ.get("CI") == "true"
        (pytest.fail if must else pytest.skip)(f"no {ACTIONLINT.path}: make test-workflows builds it")
    assert check_actionlint(*WORKFLOWS) == ""
    assert "SC2086" in check_actionlint(broken('"$image:$GITHUB_SHA"\n', "$image:$GITHUB_SHA\n"))


def test_shellcheck_alone_finds_nothing(tmp_path):
    """Where there is no actionlint, too."""
    for number, step in enumerate(run_steps().values()):
        (tmp_path / f"{number}.sh").write_text(f"#!/bin/bash\nset -eo pipefail\n{step['run']}\n")
    assert said_by(BIN / "shellcheck", *tmp_path.iterdir()) == ""


def test_every_action_is_pinned_by_its_commit_one_version_of_each():
    pinned: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for line in path.read_text().splitlines():
            found = re.search(r"uses: ([^\s#]+)(.*)", line)
            if found and not found[1].startswith("./"):
                name, _, commit = found[1].partition("@")
                assert re.fullmatch(r"[0-9a-f]{40}", commit), line
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", found[2]), line
                pinned.setdefault(name, set()).add(commit + found[2])
    assert {name: found for name, found in pinned.items() if len(found) > 1} == {}
    assert len(pinned) > 10


def test_jobs_may_do_little_and_take_their_time_limit():
    for path in WORKFLOWS:
        assert read_workflow(path.stem)["permissions"] == {}
        assert read_workflow(path.stem)["concurrency"]
    writes = {}
    for workflow, name, job in jobs():
        assert "uses" in job or job["timeout-minutes"] <= 360, (workflow, name)
        writes[f"{workflow}/{name}"] = {who for who, what in job["permissions"].items() if what == "write"}
    assert {place: may for place, may in writes.items() if may} == {
        "deploy/images": {"id-token", "attestations"},
        "deploy/batch": {"id-token"},
        "run/run": {"id-token"},
        "release/build": {"id-token", "attestations"},
        "release/pypi": {"id-token"},
        "release/github": {"contents"},
    }
    for _, _, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_the_one_secret_is_docker_hubs_whose_api_knows_no_oidc():
    found = {name for path in WORKFLOWS for name in re.findall(r"secrets\.(\w+)", path.read_text())}
    assert found == {"DOCKERHUB_TOKEN"}


def test_whoever_uses_a_role_is_in_an_environment_which_its_trust_policy_names():
    for workflow, name, job in jobs():
        if any("configure-aws-credentials" in step.get("uses", "") for step in job.get("steps", [])):
            (statement,) = json.loads(
                (REPOSITORY / f"deploy/github/trust-{job['environment']}.json").read_text()
            )["Statement"]
            subject = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
            assert subject == f"repo:OWNER/REPOSITORY:environment:{job['environment']}", (workflow, name)


def test_nothing_is_deployed_or_released_that_has_not_passed():
    for workflow in ("deploy", "release"):
        listed = read_workflow(workflow)["jobs"]
        assert listed["ci"]["uses"] == "./.github/workflows/ci.yml"
        needs = {name: job.get("needs", []) for name, job in listed.items()}
        for name, job in listed.items():
            if any("write" in str(job["permissions"].get(one)) for one in ("id-token", "contents")):
                assert "ci" in _before(needs, name), (workflow, name)


def _before(needs: dict[str, list | str], name: str) -> set[str]:
    direct = [needs[name]] if isinstance(needs[name], str) else needs[name]
    return {*direct, *(found for one in direct for found in _before(needs, one))}


def test_the_tests_run_on_the_pythons_that_the_package_takes():
    assert read_workflow("ci")["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11"' in (REPOSITORY / "pyproject.toml").read_text()


def test_every_shell_step_is_run_by_a_test_or_said_not_to_be():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_workflow_*.py"))
    assert set(NOT_RUN) < set(run_steps())
    for place in set(run_steps()) - set(NOT_RUN):
        assert f'"{place}"' in tests, place


# What parliament says of a trust policy for GitHub: it knows neither the provider nor its tokens.
OF_THE_PROVIDER = {
    "Unknown federation source",
    "Unknown condition for action",
    "Unnecessary use of Resource *",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_the_policies_of_its_roles_fit_together(path):
    policy = json.loads(path.read_text())
    is_trust = path.stem.startswith("trust-")
    if is_trust:  # it has no resource, which parliament wants
        policy["Statement"][0]["Resource"] = "*"
    found = {line.split(" - ")[1] for line in check_policy(json.dumps(policy)).splitlines()}
    assert found == (OF_THE_PROVIDER if is_trust else set())
    wrong = json.dumps(policy).replace("AssumeRole", "AsumeRole").replace("ecr:Get", "ecr:Got")
    assert "Unknown action" in check_policy(wrong)


def check_policy(policy: str) -> str:
    done = subprocess.run([BIN / "parliament"], input=policy, capture_output=True, text=True, check=False)
    return done.stdout
