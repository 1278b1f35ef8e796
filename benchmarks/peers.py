"""The job and the tuned loop against Daft, Ray Data, Hugging Face datasets and clip-retrieval.

Usage: python -m benchmarks.peers [--regime feed|model|camera] [--rounds N] [--sizes SMALL,LARGE] [--only ...]

Same images, same model, same torch, whole processes. The others run in venvs of their own, made when
they are first needed (about 6 GB each, from PyPI); float32, which is what they do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench import JOB, TUNED, add_options, describe_job, find_systems, is_job, name_dtypes, pick
from benchmarks.data import CACHE, REGIMES, Regime, make_model, make_shards, make_tars
from benchmarks.measure import REPOSITORY, System, measure_rounds
from benchmarks.report import describe_machine, markdown, summarize, warn_if_busy, write_result

VENVS = CACHE / "venvs"

# What starts together was found by trying: docs/speed.md. torch and torchvision are those of this venv.
REQUIREMENTS = {
    "frames": (
        "ray[data]==2.60.0",
        "daft==0.7.26",
        "datasets==5.2.0",
        "transformers<5.10",
        "sentence-transformers",
        "pillow",
    ),
    "clip-retrieval": ("clip-retrieval==2.45.0", "setuptools<81", "transformers<5", "clip-anytorch"),
}


@dataclass(frozen=True)
class Peer:
    """Another system: its program in benchmarks/peer_programs, and the venv that runs it."""

    name: str
    program: str
    venv: str
    needs_tars: bool = False

    def system(self, regime: Regime) -> System:
        """Return what is measured."""
        make_input = make_tars if self.needs_tars else make_shards
        python, program = venv_python(self.venv), REPOSITORY / "benchmarks" / "peer_programs" / self.program
        return System(
            self.name,
            lambda n_images, output: [
                python,
                program,
                make_input(regime, n_images),
                output,
                make_model(regime.model),
            ],
            "float32",
        )


PEERS = (
    Peer("Daft", "daft_embed.py", "frames"),
    Peer("Ray Data", "ray_embed.py", "frames"),
    Peer("datasets", "datasets_embed.py", "frames"),
    Peer("clip-retrieval", "clip_retrieval_embed.py", "clip-retrieval", needs_tars=True),
)


def venv_python(name: str) -> Path:
    """Return the python of a venv's folder, whether it is there or not."""
    return VENVS / name / "bin" / "python"


def make_venv(name: str) -> None:
    """Make a venv with the requirements of that name, unless it is complete."""
    done = VENVS / name / ".ready"
    if done.exists():
        return
    shutil.rmtree(VENVS / name, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENVS / name], check=True)
    same = [f"{package}=={version(package).split('+')[0]}" for package in ("torch", "torchvision")]
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([venv_python(name), *install, *same, *REQUIREMENTS[name]], check=True)
    done.touch()


def peer_versions() -> dict[str, dict[str, str]]:
    """Return the versions in each venv."""
    code = (
        "import json; from importlib.metadata import distributions as d;"
        "print(json.dumps({x.name.lower(): x.version for x in d()}))"
    )
    names = ("torch", "transformers", "daft", "ray", "datasets", "clip-retrieval")
    found = {}
    for venv in REQUIREMENTS:
        if venv_python(venv).exists():
            shown = subprocess.run([venv_python(venv), "-c", code], capture_output=True, check=True)
            found[venv] = {k: v for k, v in json.loads(shown.stdout).items() if k in names}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regime", choices=REGIMES, default="feed")
    add_options(parser)
    options = parser.parse_args()
    regime = REGIMES[options.regime]
    ours = [system for system in find_systems(regime) if system.name in (JOB, TUNED)]
    peers = [peer for peer in PEERS if pick([peer.system(regime)], options.only)]
    for venv in {peer.venv for peer in peers}:
        make_venv(venv)
    sizes = options.sizes or regime.sizes
    for n_images in sizes:
        make_shards(regime, n_images)
        if any(peer.needs_tars for peer in peers):
            make_tars(regime, n_images)
    machine = describe_machine()
    warn_if_busy(machine)
    systems = [*ours, *(peer.system(regime) for peer in peers)]
    lines = measure_rounds(systems, sizes, options.rounds, warm_up=not options.no_warm_up)
    result = summarize(f"peers-{regime.name}", lines, systems, [TUNED, JOB])
    job = [describe_job(system) for system in systems if is_job(system)]
    result |= {"machine": machine | {"peers": peer_versions()}, "job": job}
    name_dtypes(result)
    print(f"{markdown(result)}\n")
    print(f"written to {write_result(result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
