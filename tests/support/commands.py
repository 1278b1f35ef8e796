"""The command in a process of its own, as a person starts it."""

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def run_command(*argv, environ=None, cwd=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_EMBED_", "PYSPARK_"))}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment.update(environ or {})
    return subprocess.run(
        [str(word) for word in argv], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
