"""Whether this machine can start Spark, before Spark prints pages about what it lacks; starts nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import version

from spark_embed.errors import ConfigError
from spark_embed.spark.context import remote_url

MIN_JAVA = 17


def check_machine() -> None:
    """Look for what Spark needs, before Spark prints pages about it.

    Raises:
        ConfigError: no Java, too old a Java, or pandas 3.
    """
    check_pandas()
    # Else spark-submit has started the JVM, or there is none.
    if "PYSPARK_GATEWAY_PORT" not in os.environ and not (remote_url() or "").startswith("sc://"):
        check_java()


def check_pandas() -> None:
    """Refuse pandas 3.

    Raises:
        ConfigError: pandas is too new for pyspark.
    """
    if int(version("pandas").split(".")[0]) >= 3:
        raise ConfigError(
            f"pandas {version('pandas')}: Spark up to 4.3 needs pandas 2; pip install 'pandas<3'"
        )


def check_java() -> None:
    """Refuse a missing or old Java before Spark prints pages about it.

    Raises:
        ConfigError: with what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    advice = (
        f"install Java {MIN_JAVA} or later (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
    )
    if not java or not os.access(java, os.X_OK):
        raise ConfigError(
            f"Spark needs Java, and there is none{f' in JAVA_HOME {home}' if home else ''}: {advice}"
        )
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ConfigError(f"{java} -version does not run ({exc}): {advice}") from exc
    found = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    if not found:
        raise ConfigError(f"{java} -version does not say its version: {advice}")
    if int(found[1]) < MIN_JAVA:
        raise ConfigError(f"{java} is Java {found[1]}, too old: {advice}")
