"""What .github/ says is what GitHub, actionlint, zizmor and shellcheck take; its rules hold; and its shell steps
are executed here, as a runner would, wherever they need no cloud and no container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from make_go_program import ACTIONLINT

from support.checkout import REPOSITORY
from support.commands import BIN
from support.workflows import WORKFLOWS, Runner, jobs, read_workflow, run_steps, steps

# The shell steps that no test runs, and why.
NOT_RUN = {
    "ci/lint/ruff and mypy": "make lint types: what make test does",
    "ci/lint/workflows": "make test-workflows: this file",
    "ci/tests/make test": ".ci/run: what runs this test",
    "ci/wheel/build": "make wheel: support/cluster_fixtures.py",
    "ci/images/the job says its version": "a container engine",
    "ci/images/the service is ready": "a container engine",
    "deploy/batch/install": "a whole environment of PyPI",
    "run/run/install": "a whole environment of PyPI",
}
# Those that make test-workflows alone runs: many seconds.
LONG = {"ci/wheel/install into an environment of its own", "release/build/what it brings along"}


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
    if not ACTIONLINT.path.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            f"no actionlint at {ACTIONLINT.path}: `make test-workflows` builds it"
        )
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
    return [pair for pair in zip(lines, lines[1:], strict=False) if "zizmor: ignore" in pair[1]]


def test_actionlint_and_shellcheck_find_nothing(broken):
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
                assert "ci" in _before(needs, name) or (workflow, name) == ("release", "build")


def _before(needs: dict[str, list | str], name: str) -> set[str]:
    direct = [needs[name]] if isinstance(needs[name], str) else needs[name]
    return {*direct, *(found for one in direct for found in _before(needs, one))}


def test_the_tests_run_on_the_pythons_that_the_package_takes():
    assert read_workflow("ci")["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11"' in (REPOSITORY / "pyproject.toml").read_text()


def test_every_shell_step_is_run_by_a_test_or_said_not_to_be():
    text = Path(__file__).read_text()
    assert set(NOT_RUN) < set(run_steps())
    for place in set(run_steps()) - set(NOT_RUN):
        assert text.count(f'"{place}"') >= 1, place
    assert set(run_steps()) >= LONG


# What of AWS, Databricks and GitHub the steps would call: each says what it was given, and answers.
RECORDER = """#!/bin/sh
for word in "{name}" "$@"; do printf '%s\\0' "$word" >> '{record}'; done
printf '\\n' >> '{record}'
{answer}
"""


class Programs:
    """Programs that stand for others, and what they were given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "programs"
        self.folder.mkdir()
        self._record = folder / "record"
        self._record.touch()

    def add(self, name: str, answer: str = "") -> None:
        program = self.folder / name
        program.write_text(RECORDER.format(name=name, record=self._record, answer=answer))
        program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        return [call.split("\0")[:-1] for call in self._record.read_text().split("\0\n") if call]


@pytest.fixture
def programs(tmp_path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def runner(tmp_path, programs):
    def runner(checkout: Path = REPOSITORY, **context: str) -> Runner:
        named = {key.replace("__", "."): value for key, value in context.items()}
        return Runner(tmp_path / "runner", checkout, named, (programs.folder, BIN))

    return runner


INPUTS = {
    "inputs__input_dir": "s3://bucket/my images",
    "inputs__output_dir": "s3://bucket/out",
    "inputs__resume": "true",
}
SUBMITTED = {
    "batch": '{"job_id": "0a1b", "job_queue": "spark-embed"}',
    "emr": '{\n  "cluster_id": "j-1",\n  "step_id": "s-1"\n}',
}


@pytest.mark.parametrize(
    ("inputs", "flags"),
    [
        ({}, []),
        ({"resume": "false"}, ["--overwrite=true"]),
        (
            {"batch_size": "64", "concurrency": "3", "flags": " --max_samples 10  --env=prod "},
            ["--batch_size=64", "--num_workers=3", "--max_samples", "10", "--env=prod"],
        ),
        (
            {"batch_size": '1"; touch pwned; "', "flags": "$(touch pwned) `touch pwned` ;touch *"},
            ['--batch_size=1"; touch pwned; "', "$(touch", "pwned)", "`touch", "pwned`", ";touch", "*"],
        ),
    ],
)
@pytest.mark.parametrize("target", ["batch", "emr"])
def test_a_run_is_submitted_with_the_inputs_as_flags_which_the_job_takes_as_they_are(
    runner, programs, tmp_path, target, inputs, flags
):
    programs.add("spark-embed", f"echo '{SUBMITTED[target]}'")
    made = runner(**{**INPUTS, **{f"inputs__{name}": text for name, text in inputs.items()}})
    assert made.run("run/run/the job's flags").returncode == 0
    place = {"batch": "run/run/run on AWS Batch", "emr": "run/run/run on Amazon EMR"}[target]
    done = made.run(place)
    assert done.returncode == 0, done.stderr
    expected = ["--input_dir=s3://bucket/my images", "--output_dir=s3://bucket/out", *flags]
    assert programs.calls[-1] == ["spark-embed", target, "submit", "--wait", "--", *expected]
    assert programs.calls[:-1] == ([["spark-embed", "emr", "deploy"]] if target == "emr" else [])
    assert json.loads((made.temp / "submitted").read_text()) == json.loads(SUBMITTED[target])
    assert not list(tmp_path.rglob("pwned"))
    assert not (REPOSITORY / "pwned").exists()


def test_the_flags_are_options_of_the_job(runner):
    from spark_embed.load_config import load_config

    made = runner(**{**INPUTS, "inputs__resume": "false"}, inputs__batch_size="auto", inputs__concurrency="3")
    made.run("run/run/the job's flags")
    config = load_config((made.temp / "flags").read_text().splitlines(), {})
    assert (config.input_dir, config.overwrite) == ("s3://bucket/my images", True)
    assert (config.batch_size, config.num_workers) == ("auto", 3)


def test_on_databricks_they_are_parameters_of_the_job(runner, programs):
    programs.add("databricks")
    made = runner(**{**INPUTS, "inputs__resume": "false"}, inputs__batch_size="64")
    made.run("run/run/the job's flags")
    assert made.run("run/run/run on Databricks").returncode == 0
    deployed, ran = programs.calls
    assert deployed == ["databricks", "bundle", "deploy", "-t", "prod"]
    assert ran[:7] == ["databricks", "bundle", "run", "-t", "prod", "embed", "--"]
    for path in (REPOSITORY / "deploy/databricks/resources").glob("*.yml"):
        (job,) = yaml.safe_load(path.read_text())["resources"]["jobs"].values()
        known = {f"--{parameter['name']}" for parameter in job["parameters"]}
        assert {word.partition("=")[0] for word in ran[7:]} <= known


@pytest.mark.parametrize(
    ("place", "target", "words"),
    [
        ("run/run/the driver's log", "batch", ["batch", "logs", "--job_id=0a1b"]),
        ("run/run/the driver's log", "emr", ["emr", "logs", "--cluster_id=j-1"]),
        ("run/run/end what was started, as this run is cancelled", "batch", ["batch", "cancel", "0a1b"]),
        ("run/run/end what was started, as this run is cancelled", "emr", ["emr", "terminate", "j-1"]),
    ],
)
def test_what_was_started_is_looked_at_and_ended_by_its_id(runner, programs, place, target, words):
    programs.add("spark-embed", "echo the last line says why")
    made = runner(inputs__target=target)
    assert made.run(place).returncode == 0
    assert programs.calls == []  # nothing was started
    (made.temp / "submitted").write_text(SUBMITTED[target])
    assert made.run(place).stdout == "the last line says why\n"
    (call,) = programs.calls
    assert [word for word in call[1:] if word not in ("--job_id", "--cluster_id")] == words


def test_a_failed_submission_fails_its_step_though_it_is_shown_as_it_runs(runner, programs):
    programs.add("spark-embed", "exit 11")
    made = runner(**INPUTS)
    made.run("run/run/the job's flags")
    assert made.run("run/run/run on AWS Batch").returncode == 11


def test_the_page_of_a_run_says_what_is_in_its_folder(runner, tmp_path, spark):
    from spark_embed import pipeline
    from spark_embed.config import Config

    out = tmp_path / "out"
    _write_images(tmp_path / "in")
    pipeline.run(spark, Config(input_dir=str(tmp_path / "in"), output_dir=str(out), parity_samples=0))
    made = runner(inputs__output_dir=str(out))
    done = made.run("run/run/summary")
    assert done.returncode == 0, done.stderr
    assert "### complete" in made.summary
    assert "4 rows: 3 embedded, 1 errors" in made.summary
    assert made.summary.count("\n````text\n") == 1, "a name with ``` in it ends no block"
    results = made.temp / "results"
    assert (results / "metadata.json").read_text() == (out / "metadata.json").read_text()
    assert json.loads((results / "status.json").read_text())["state"] == "complete"
    (error,) = map(json.loads, (results / "errors.jsonl").read_text().splitlines())
    assert (error["image_id"], error["error"]) == ("```bad.jpg", "decode_error")
    assert sum(path.stat().st_size for path in results.iterdir()) < 100_000


def _write_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (number * 80, 10, 200)).save(folder / f"{number}.jpg")
    (folder / "```bad.jpg").write_bytes(b"\xff\xd8 no image")


def test_the_page_of_a_run_that_left_nothing_says_so_and_fails_no_more(runner, tmp_path):
    made = runner(inputs__output_dir=str(tmp_path / "none"))
    assert made.run("run/run/summary").returncode == 0
    assert "there is no such folder" in made.summary


def test_the_record_in_a_volume_is_fetched(runner, programs):
    programs.add("databricks", 'echo "{}" > "$4"')
    made = runner(inputs__output_dir="/Volumes/main/default/out")
    assert made.run("run/run/fetch the record from the volume").returncode == 0
    folder = made.outputs["folder"]
    source = "dbfs:/Volumes/main/default/out/metadata.json"
    assert programs.calls == [["databricks", "fs", "cp", source, f"{folder}/metadata.json"]]
    assert (Path(folder) / "metadata.json").exists()


@pytest.mark.parametrize("hub", ["", "me"])
def test_what_was_scanned_is_pushed_and_named_by_its_digest(runner, programs, hub):
    digests = r"printf '%s\n' me/spark-embed-job@sha256:00 ecr/spark-embed-job@sha256:0f"
    programs.add("docker", f'[ "$1" != image ] || {digests}')
    made = runner(matrix__target="job", steps__ecr__outputs__registry="ecr", vars__DOCKERHUB_USERNAME=hub)
    done = made.run("deploy/images/push what was scanned", GITHUB_SHA="c0ffee")
    assert done.returncode == 0, done.stderr
    assert made.outputs == {"image": "ecr/spark-embed-job", "digest": "sha256:0f"}
    assert "ecr/spark-embed-job@sha256:0f" in made.summary
    tagged = [call[2:] for call in programs.calls if call[1] == "tag"]
    pushed = [call[3] for call in programs.calls if call[1] == "push"]
    names = ["ecr/spark-embed-job:c0ffee"]
    names += ["me/spark-embed-job:c0ffee", "me/spark-embed-job:latest"] if hub else []
    assert pushed == names
    assert tagged == [["spark-embed-job:scanned", name] for name in names]


def test_the_image_that_was_pushed_is_the_job_definitions(runner, programs):
    programs.add("spark-embed")
    made = runner(steps__ecr__outputs__registry="ecr")
    place = "deploy/batch/a new revision of the job definition"
    assert made.run(place, GITHUB_SHA="c0ffee").returncode == 0
    (call,) = programs.calls
    assert call == ["spark-embed", "batch", "setup", "--parameter", "ImageUri=ecr/spark-embed-job:c0ffee"]


@pytest.fixture
def release(tmp_path) -> Path:
    """A checkout whose changelog has its version, with a commit."""
    checkout = tmp_path / "checkout"
    for name in ("README.md", "LICENSE", "pyproject.toml", "CHANGELOG.md", "conf", "spark_embed", "tools"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, checkout / name) if checkout.exists() else (
            checkout.mkdir(),
            copy(REPOSITORY / name, checkout / name),
        )
    changelog = checkout / "CHANGELOG.md"
    changelog.write_text(
        "# Changelog\n\n## 0.1.0 (2026-12-01)\n\n- One thing.\n- `two`\n\n## 0.0.9\n\n- Old.\n"
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *command], cwd=checkout, check=True)
    return checkout


def test_a_release_has_the_version_of_its_tag_and_the_changelogs_notes_of_it(runner, release):
    made = runner(release)
    place = "release/build/the tag is the version, and the changelog has it"
    assert made.run(place, GITHUB_REF_NAME="v0.1.0").returncode == 0
    assert (made.temp / "notes/notes.md").read_text() == "- One thing.\n- `two`\n"
    wrong = made.run(place, GITHUB_REF_NAME="v0.1")
    assert (wrong.returncode, "pyproject.toml says 0.1.0" in wrong.stderr) == (1, True)
    (release / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- One thing.\n")
    missing = made.run(place, GITHUB_REF_NAME="v0.1.0")
    assert (missing.returncode, "call '## Unreleased' so" in missing.stderr) == (1, True)


def test_a_release_is_the_same_bytes_wherever_and_whenever_it_is_built(runner, programs, release, tmp_path):
    programs.add("pip")  # hatchling is here
    made = runner(release)
    place = "release/build/wheel and source distribution"
    done = made.run(place)
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(release, elsewhere, ignore=shutil.ignore_patterns("dist", "again"))
    for path in elsewhere.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    again = Runner(tmp_path / "other", elsewhere, {}, (programs.folder, BIN)).run(place)
    assert again.stdout == done.stdout
    assert done.stdout == made.summary
    assert re.findall(r"dist/(\S+)", done.stdout) == [
        "spark_embed-0.1.0-py3-none-any.whl",
        "spark_embed-0.1.0.tar.gz",
    ]


def test_a_release_on_github_has_its_files_and_its_notes(runner, programs, tmp_path):
    programs.add("gh")
    for name in ("dist/a.whl", "dist/a.tar.gz", "notes/notes.md", "notes/sbom.spdx.json"):
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    made = runner(tmp_path / "downloaded")
    environ = {"GITHUB_REF_NAME": "v0.1.0", "GITHUB_REPOSITORY": "o/r"}
    assert made.run("release/github/release", **environ).returncode == 0
    (call,) = programs.calls
    assert call[:5] == ["gh", "release", "create", "v0.1.0", "--repo"]
    assert call[-5:] == ["notes/notes.md", "dist/a.tar.gz", "dist/a.whl", "notes/sbom.spdx.json"][-5:] or (
        call[-4:] == ["notes/notes.md", "dist/a.tar.gz", "dist/a.whl", "notes/sbom.spdx.json"]
    )


@pytest.mark.workflows
@pytest.mark.parametrize("place", sorted(LONG))
def test_the_wheel_works_in_an_environment_of_its_own(runner, tmp_path, place):
    checkout = tmp_path / "checkout"
    (checkout / "dist").mkdir(parents=True)
    shutil.copy(REPOSITORY / "constraints.txt", checkout)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", checkout / "dist", REPOSITORY], check=True)
    done = runner(checkout).run(place, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("spark-embed 0.1.0")
