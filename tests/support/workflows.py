"""GitHub's workflows as files, and a `run:` step of one executed here as a runner would, by bash."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from support.checkout import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))

_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


def read_workflow(name: str) -> dict:
    """Return a workflow; the key `on` is YAML 1.1's true."""
    workflow = yaml.safe_load((REPOSITORY / f".github/workflows/{name}.yml").read_text())
    return {"on" if key is True else key: value for key, value in workflow.items()}


def jobs() -> Iterator[tuple[str, str, dict]]:
    """Yield all jobs: the name of the workflow, that of the job, and the job."""
    for path in WORKFLOWS:
        for name, job in read_workflow(path.stem)["jobs"].items():
            yield path.stem, name, job


def steps() -> Iterator[tuple[str, str, dict]]:
    """Yield all steps, with the names of workflow and job."""
    for workflow, name, job in jobs():
        for step in job.get("steps", []):
            yield workflow, name, step


def run_steps() -> dict[str, dict]:
    """Return the steps that are shell: `workflow/job/name of the step`."""
    return {f"{workflow}/{job}/{step['name']}": step for workflow, job, step in steps() if "run" in step}


@dataclass
class Runner:
    """Runs steps one after the other, as those of one job.

    Args:
        folder: for the runner's temporary files and what the steps write for GitHub.
        checkout: where the steps run.
        context: what `${{ ... }}` in `env:` stands for, such as {"inputs.target": "emr"}; else it is empty.
        path: folders of programs that stand in front of all others.
    """

    folder: Path
    checkout: Path
    context: Mapping[str, str] = field(default_factory=dict)
    path: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("temp", "checkout"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("summary", "output"):
            (self.folder / name).touch()

    @property
    def temp(self) -> Path:
        """RUNNER_TEMP."""
        return self.folder / "temp"

    @property
    def summary(self) -> str:
        """What was written for the run's page."""
        return (self.folder / "summary").read_text()

    @property
    def outputs(self) -> dict[str, str]:
        """What the steps put out."""
        return dict(line.split("=", 1) for line in (self.folder / "output").read_text().splitlines())

    def run(self, place: str, **environ: str) -> subprocess.CompletedProcess:
        """Run a step, named as by `run_steps`; `environ` is what the runner has besides."""
        workflow, job, _ = place.split("/", 2)
        step = run_steps()[place]
        assert not _EXPRESSION.search(step["run"]), "inputs reach the shell through env: alone"
        given = {**read_workflow(workflow)["jobs"][job].get("env", {}), **step.get("env", {})}
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        return subprocess.run(
            # As GitHub starts `shell: bash`.
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.checkout / step.get("working-directory", "."),
            env={
                **os.environ,
                "PATH": os.pathsep.join([*map(str, self.path), os.environ["PATH"]]),
                "RUNNER_TEMP": str(self.temp),
                "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
                "GITHUB_OUTPUT": str(self.folder / "output"),
                **{name: self._value(text) for name, text in given.items()},
                **environ,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def _value(self, text: str) -> str:
        return _EXPRESSION.sub(lambda found: self._evaluate(found[1]), str(text))

    def _evaluate(self, expression: str) -> str:
        """Return the first of `a || b || 'text'` that is not empty."""
        for term in expression.split("||"):
            name = term.strip()
            value = name[1:-1] if name.startswith("'") else self.context.get(name, "")
            if value:
                return value
        return ""


# What of AWS, Databricks and GitHub the steps would call: each says what it was given, and answers.
_RECORDER = """#!/bin/sh
for word in "{name}" "$@"; do printf '%s\\0' "$word" >> '{record}'; done
printf '\\n' >> '{record}'
{answer}
"""


class Programs:
    """Programs that stand for others, and what they were given.

    Args:
        folder: for them, and for the record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "programs"
        self.folder.mkdir()
        self._record = folder / "record"
        self._record.touch()

    def add(self, name: str, answer: str = "") -> None:
        """Put one there, which then does what `answer`, of the shell, says."""
        program = self.folder / name
        program.write_text(_RECORDER.format(name=name, record=self._record, answer=answer))
        program.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """The words of every call, the program's name first."""
        return [call.split("\0") for call in self._record.read_text().split("\0\n") if call]
