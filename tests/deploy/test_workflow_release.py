"""release.yml's shell: version and notes, the same bytes each time, and a wheel that works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkout import REPOSITORY
from support.commands import BIN
from support.workflows import Runner

# Many seconds each.
ENVIRONMENTS = ["ci/wheel/install into an environment of its own", "release/build/what it brings along"]


@pytest.fixture
def release(tmp_path) -> Path:
    """A checkout whose changelog has its version, with a commit."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("README.md", "LICENSE", "pyproject.toml", "conf", "spark_embed", "tools"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, checkout / name)
    (checkout / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 0.1.0 (2026-12-01)\n\n- One thing.\n- `two`\n\n## 0.0.9\n\n- Old.\n"
    )
    (checkout / ".gitignore").write_text("__pycache__/\n")
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
    assert call[-5:] == [
        "--notes-file",
        "notes/notes.md",
        "dist/a.tar.gz",
        "dist/a.whl",
        "notes/sbom.spdx.json",
    ]


@pytest.mark.workflows
@pytest.mark.parametrize("place", ENVIRONMENTS)
def test_the_wheel_works_in_an_environment_of_its_own(runner, tmp_path, place):
    checkout = tmp_path / "checkout"
    (checkout / "dist").mkdir(parents=True)
    shutil.copy(REPOSITORY / "constraints.txt", checkout)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", checkout / "dist", REPOSITORY], check=True)
    done = runner(checkout).run(place, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("spark-embed 0.1.0")
