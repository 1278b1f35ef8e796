"""emr/bootstrap.sh as a node runs it, in an environment of its own; what AWS has there is a double."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from support.checkout import REPOSITORY

SCRIPT = REPOSITORY / "emr/bootstrap.sh"
RELEASE = "s3://bucket/spark_embed/releases/9.9-abc"
PYTHON = Path(sys._base_executable)

TOOLS = ("bash", "cat", "chmod", "chown", "cp", "env", "hostname", "id", "mkdir", "mktemp", "rm", "tee")
# What a node has and this machine has not, or what must not touch this machine.
DOUBLES = {
    "sudo": """
exec "$@"
""",
    "aws": """
[ -z "$AWS_FAILS" ] || { echo "fatal error: 403" >&2; exit 1; }
for word in "$@"; do from=$to to=$word; done
from=$BUCKET/${from#s3://bucket/}
case $from in
    */) cp "$from"*.whl "$to" 2>/dev/null || true ;;
    *) cp "$from" "$to" ;;
esac
""",
    "dnf": """
[ -z "$DNF_FAILS" ] || { echo "no such package" >&2; exit 7; }
echo "$@" >>"$LOG"
printf '#!/bin/sh\\nexec %s "$@"\\n' "$PYTHON" >"$BIN/python3.11"
chmod +x "$BIN/python3.11"
""",
    "mountpoint": """
for word in "$@"; do :; done
[ -e "$word.mounted" ]
""",
    "mount": """
for word in "$@"; do :; done
echo "mount $*" >>"$LOG"
: >"$word.mounted"
""",
}


def make_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), code: str = "") -> None:
    """Write a wheel of one module."""
    about = "".join(f"Requires-Dist: {one}\n" for one in requires)
    info = f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", code)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{about}"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


class Node:
    """A new node, and a release in S3."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.log = folder / "root", folder / "bin", folder / "log"
        self.bucket, index = folder / "bucket", folder / "index"
        self.release = self.bucket / RELEASE.removeprefix("s3://bucket/")
        requires = ("tiny<3", "pyspark>=3.5,<4.4", 'profiler; extra == "profile"')
        make_wheel(self.release, "spark_embed", "9.9", requires)
        (self.release / "constraints.txt").write_text("tiny==1.0\n")
        for version in ("1.0", "2.0"):
            make_wheel(index, "tiny", version)
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        for name, text in DOUBLES.items():
            (self.bin / name).write_text(f"#!/bin/bash{text}")
            (self.bin / name).chmod(0o755)
        self.environ = {
            "PATH": str(self.bin), "BIN": str(self.bin), "LOG": str(self.log), "BUCKET": str(self.bucket),
            "PYTHON": str(PYTHON), "BOOTSTRAP_ROOT": str(self.root), "HOME": str(folder),
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "TMPDIR": str(folder),
        }  # fmt: skip

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
        command = [str(self.bin / "bash"), str(SCRIPT), *arguments]
        return subprocess.run(
            command, env=self.environ | environ, capture_output=True, text=True, check=False
        )

    def packages(self) -> dict[str, str]:
        python = self.root / "opt/spark_embed/bin/python"
        done = subprocess.run(
            [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
        )
        return dict(line.split("==") for line in done.stdout.split())


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


@pytest.fixture(scope="module")
def ready_node(tmp_path_factory) -> Node:
    """One on which the script has run."""
    node = Node(tmp_path_factory.mktemp("node"))
    node.done = node.run(RELEASE, "--gpu")
    assert node.done.returncode == 0, node.done.stderr
    return node


@pytest.mark.slow
def test_a_new_node_has_the_packages_afterwards(ready_node):
    assert f"at {ready_node.root}/opt/spark_embed, release {RELEASE}" in ready_node.done.stdout
    packages = ready_node.packages()
    assert packages["tiny"] == "1.0"  # as the constraints say
    assert packages["spark_embed"] == "9.9"
    assert not {"pyspark", "profiler"} & packages.keys()
    assert (ready_node.root / "mnt/spark_embed/cache").stat().st_mode & 0o7777 == 0o1777
    assert ready_node.log.read_text().splitlines() == [
        "install --assumeyes --quiet python3.11 python3.11-pip",
        f"mount -t cgroup -o devices cgroupv1-devices {ready_node.root}/spark-rapids-cgroup/devices",
    ]


@pytest.mark.slow
def test_what_is_there_stays_but_another_build_of_the_same_version_is_installed(ready_node):
    model = ready_node.root / "mnt/spark_embed/cache/model"
    model.mkdir()
    told = ready_node.log.read_text()
    make_wheel(ready_node.release, "spark_embed", "9.9", ("tiny<3",), "NEWER = True")
    done = ready_node.run(RELEASE, "--gpu")
    assert done.returncode == 0, done.stderr
    assert ready_node.log.read_text() == told  # neither installed nor mounted again
    assert model.is_dir()
    (module,) = ready_node.root.glob("opt/spark_embed/lib/python3*/site-packages/spark_embed/__init__.py")
    assert module.read_text() == "NEWER = True"
    assert list(ready_node.root.parent.glob("tmp.*")) == []


@pytest.mark.parametrize(
    ("arguments", "environ", "step"),
    [
        ((), {}, "reading the arguments: the first must be the folder of a release in S3, not ''"),
        ((RELEASE, "--gpus"), {}, "reading the arguments: the second may be --gpu, nothing else"),
        (
            (RELEASE,),
            {"DNF_FAILS": "1"},
            "installing Python 3.11 (dnf): exit code 7; the lines above say why",
        ),
    ],
)
def test_a_step_that_fails_is_named_in_the_last_line(node, arguments, environ, step):
    assert_fails(node.run(*arguments, **environ), step)
    assert not (node.root / "opt/spark_embed/bin").exists()


@pytest.mark.slow
def test_a_release_that_is_not_whole_fails_by_its_step(ready_node):
    fetching = f"fetching the release {RELEASE}"
    assert_fails(ready_node.run(RELEASE, AWS_FAILS="1"), f"{fetching}: exit code 1; the lines above say why")
    (ready_node.release / "constraints.txt").write_text("tiny==7\n")
    assert_fails(ready_node.run(RELEASE), "installing packages (pip): exit code 1; the lines above say why")
    for wheel in ready_node.release.glob("*.whl"):
        wheel.unlink()
    assert_fails(ready_node.run(RELEASE), f"{fetching}: it must have one wheel, spark_embed-*.whl")


def assert_fails(done: subprocess.CompletedProcess, step: str) -> None:
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ERROR bootstrap.sh on ")
    assert step in last
    assert done.stderr.count("ERROR bootstrap.sh") == 1


def test_the_script_is_clean_to_shellcheck():
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_gpu_settings_are_what_emr_takes_and_name_the_folder_that_the_script_mounts():
    configurations = yaml.safe_load((REPOSITORY / "emr/cluster.yaml").read_text())["configurations"]
    model = ServiceModel(Loader().load_service_model("emr", "service-2"))
    found = ParamValidator().validate(configurations, model.shape_for("ConfigurationList"))
    assert not found.has_errors(), found.generate_report()
    by_name = {one["Classification"]: one for one in configurations}
    (cgroups,) = [
        one for one in by_name["container-executor"]["Configurations"] if one["Classification"] == "cgroups"
    ]
    root = cgroups["Properties"]["root"]
    site = by_name["yarn-site"]["Properties"]
    assert site["yarn.nodemanager.linux-container-executor.cgroups.mount-path"] == root
    assert f"readonly CGROUP=${{BOOTSTRAP_ROOT:-}}{root} " in SCRIPT.read_text()
