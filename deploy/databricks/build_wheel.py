"""Builds the wheel of a Databricks bundle: `python3 build_wheel.py FOLDER [argument of pip ...]`.

It is the package's, with two differences. Its version has the time in it, because an environment that has a
version keeps it, whatever is deployed under the same one later. And it does not ask for what the ML runtime
brings: pip would put a Spark or a torch of PyPI beside the runtime's own.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PARTS = ("README.md", "LICENSE", "spark_embed", "conf")
OF_THE_RUNTIME = ("pyspark", "torch", "torchvision")


def main(folder: str, *pip: str) -> None:
    """Build it into `folder`."""
    time = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    project = (CHECKOUT / "pyproject.toml").read_text()
    project = re.sub(r'^(version = "[^"+]+)"$', rf'\1+{time}"', project, count=1, flags=re.MULTILINE)
    project = re.sub(rf'^    "(?:{"|".join(OF_THE_RUNTIME)})\W.*\n', "", project, flags=re.MULTILINE)
    with tempfile.TemporaryDirectory() as staged:
        (Path(staged) / "pyproject.toml").write_text(project)
        for part in PARTS:
            copy = shutil.copytree if (CHECKOUT / part).is_dir() else shutil.copy
            copy(CHECKOUT / part, Path(staged) / part)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *pip]
        subprocess.run([*command, staged], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
