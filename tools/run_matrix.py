"""Run some of the tests on other versions of Spark and transformers than those that `make test` has.

Usage: python tools/run_matrix.py [--environment_only] [NAME ...]

Each has an environment in .venvs that holds only what differs, and behind it sees the packages of this one: a
whole one weighs 7 GB. Prints a table in the end.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
ENVIRONMENTS = REPOSITORY / ".venvs"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir")

Row = tuple[str, str, str, str]

SPARK_TESTS = ("-m", "matrix")
MODEL_TESTS = ("tests/models/vision",)


@dataclass(frozen=True)
class Environment:
    """What is pinned beside constraints.txt, which pins all else, and what pytest is to run with it."""

    pins: tuple[str, ...]
    tests: tuple[str, ...]


# What transformers 4 wants of the hub's client, and what that wants.
_HUB = (
    "huggingface_hub==0.36.2",
    "requests==2.34.2",
    "charset-normalizer==3.5.3",
    "certifi==2026.10.19.post1",
)

# The latest patch of each line; py4j and tokenizers as their metadata want them.
MATRIX = {
    "spark-3.5": Environment(("pyspark==3.5.9", "py4j==0.10.9.7"), SPARK_TESTS),
    "spark-4.0": Environment(("pyspark==4.0.5", "py4j==0.10.9.9"), SPARK_TESTS),
    "spark-4.2": Environment(("pyspark==4.2.1", "py4j==0.10.9.9"), SPARK_TESTS),
    "spark-4.3": Environment(("pyspark==4.3.0", "py4j==0.10.9.9"), SPARK_TESTS),
    "transformers-4.50": Environment(("transformers==4.50.3", "tokenizers==0.21.4", *_HUB), MODEL_TESTS),
    "transformers-4.57": Environment(("transformers==4.57.6", "tokenizers==0.22.2", *_HUB), MODEL_TESTS),
}


def python_of(name: str) -> str:
    """Return the python of an environment, whether it is there or not."""
    return str(ENVIRONMENTS / name / "bin" / "python")


def make_environment(name: str, pins: tuple[str, ...]) -> None:
    """Make an environment, unless it is there with these pins."""
    folder, wanted = ENVIRONMENTS / name, "\n".join(pins)
    done = folder / ".ready"
    if done.exists() and done.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    install = [*PIP, "--python", python_of(name), "install", "--no-deps"]
    subprocess.run([*install, *pins, "--editable", str(REPOSITORY)], check=True)
    packages = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    # Last, for pip would take what it sees there for its own; and by its name after the editable install.
    rest = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (packages / "zz_rest_of_the_environment.pth").write_text(rest)
    done.write_text(wanted)


def run_tests(name: str, environment: Environment) -> Row:
    """Run the tests in an environment; returns a line of the table."""
    started = time.monotonic()
    command = [python_of(name), "-m", "pytest", *environment.tests]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    result = (done.stdout.strip().splitlines() or ["nothing was said"])[-1].strip("= ")
    pins = ", ".join(environment.pins)
    return pins, f"`pytest {' '.join(environment.tests)}`", result, f"{time.monotonic() - started:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MATRIX))
    parser.add_argument("--environment_only", action="store_true", help="run no test")
    options = parser.parse_args()
    table: list[Row] = [("versions", "what ran", "result", "time"), ("---", "---", "---", "---")]
    for name in options.names or MATRIX:
        make_environment(name, MATRIX[name].pins)
        if not options.environment_only:
            table.append(run_tests(name, MATRIX[name]))
    print("\n".join(f"| {' | '.join(row)} |" for row in table))


if __name__ == "__main__":
    main()
