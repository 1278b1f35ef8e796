"""Fixtures of the tests on a cluster: what is submitted, and the commands of docs/clusters.md."""

import re
import shlex
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from support.checkout import REPOSITORY
from support.cluster import Cluster
from support.commands import BIN
from support.crashes import PACKAGE_ARCHIVE, Run
from support.event_log import SETTINGS as EVENT_LOG

# What fits the nodes of `Cluster`, instead of those of conf/gpu.conf.
SMALL = {
    "spark.executor.cores": "1",
    "spark.task.cpus": "1",
    "spark.executor.memory": "512m",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


@pytest.fixture(scope="session")
def node_python(tmp_path_factory) -> Path:
    """A Python that has all packages of this one but spark_embed: what is editable is not followed."""
    folder = tmp_path_factory.mktemp("nodes") / "python"
    venv.create(folder, symlinks=True)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (folder / packages / "packages.pth").write_text(f"{Path(sys.prefix, packages)}\n")
    return folder / "bin/python"


@pytest.fixture(scope="session")
def dist(tmp_path_factory) -> Path:
    """What `make wheel` makes, in this environment as it is (-o)."""
    folder = tmp_path_factory.mktemp("dist")
    recipe = ["make", "wheel", f"DIST={folder}", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready"]
    made = subprocess.run(recipe, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def environment(dist, node_python) -> Path:
    """What `make env-archive` makes, of a small environment; beside it what the driver's would be."""
    archive = dist / "environment.tar.gz"
    program, (wheel,) = REPOSITORY / "tools/make_env_archive.py", dist.glob("*.whl")
    subprocess.run([sys.executable, program, node_python.parent.parent, wheel, archive], check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(dist / "environment", filter="fully_trusted")
    return archive


@pytest.fixture
def submit(request, stamped, tiny_clip, node_python, tmp_path):
    """Start the command of docs/clusters.md that has some flag; it ends with the test."""
    runs = []

    def submit(cluster: Cluster, flag: str, out: Path, settings=None, **happening) -> Run:
        """Give it this test's places instead of the page's; `happening` is for `crashes.Run`."""
        places = {
            "spark-submit": BIN / "spark-submit",
            "spark://master:7077": cluster.url,
            "conf/gpu.conf": REPOSITORY / "conf/gpu.conf",
            "jobs/embed.py": REPOSITORY / "jobs/embed.py",
            "/opt/python/bin/python": node_python,
            "/shared/images": stamped,
            "/shared/embeddings": out,
            "/shared/model": tiny_clip,
        }
        if flag == "--archives":
            archive = request.getfixturevalue("environment")
            places |= {"dist/environment.tar.gz": archive}
            places |= {".venv/bin/python": archive.parent / "environment/bin/python"}
        else:
            places |= {f"dist/{PACKAGE_ARCHIVE}": request.getfixturevalue("dist") / PACKAGE_ARCHIVE}
        program, *words = (_placed(word, places) for word in documented(flag))
        log = tmp_path / f"run-{len(runs)}"
        events = log.with_name(f"{log.name}-events")
        events.mkdir()
        given = {**SMALL, **EVENT_LOG, "spark.eventLog.dir": events.as_uri(), **(settings or {})}
        confs = [word for setting in given.items() for word in ("--conf", "=".join(setting))]
        options = ["--batch_size=8", "--parity_samples=0"]
        run = Run(log, [program, *confs, *words, *options], elsewhere=True, **happening)
        run.events = events
        runs.append(run)
        return run

    yield submit
    for run in runs:
        run.end()


def documented(flag: str) -> list[str]:
    """Return the words of the page's command for standalone that has this flag."""
    text = (REPOSITORY / "docs/clusters.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if flag in block)
    _, command = block.split("\n", 1)  # make comes first
    return shlex.split(command.replace("\\\n", ""))


def _placed(word: str, places: dict) -> str:
    """Return a word of a command with the page's places replaced, of name=value and path#name too."""
    name, equals, value = word.rpartition("=")
    path, mark, link = value.partition("#")
    return f"{name}{equals}{places.get(path, path)}{mark}{link}"
