"""What `make` writes for this spark-submit: the JVM options that spark-embed gives its own JVM."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spark_embed.spark.session import class_archive

from support.checkout import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))
from make_class_archive import spark_env

pytestmark = pytest.mark.skipif(not spark_env().exists(), reason="make has not written it")

# Python is a child of spark-submit's JVM.
SCRIPT = """
import os
from pathlib import Path
jvm = Path(f"/proc/{os.getppid()}")
print(jvm.joinpath("cmdline").read_text().replace("\\0", "\\n"))
print(jvm.joinpath("maps").read_text())
"""


def environment(**others: str) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    return {**bare, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **others}


def test_a_plain_spark_submit_has_memory_options_and_the_stored_classes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [Path(sys.executable).parent / "spark-submit", script]
    env = environment(SPARK_SUBMIT_OPTS="-Dmine=1")
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    options, _, maps = shown.partition("org.apache.spark.deploy.SparkSubmit")
    assert {"-Xmx2g", "-XX:+UseSerialGC", "-Dmine=1"} <= set(options.splitlines())
    assert str(class_archive()) in maps


@pytest.mark.parametrize("others", [(), ("spark-defaults.conf",)])
def test_a_folder_with_files_of_the_users_own_stays_the_configuration(tmp_path, others):
    shutil.copy(spark_env(), tmp_path)
    for name in others:
        (tmp_path / name).write_text("spark.app.name mine\n")
    command = f'. "{tmp_path}/spark-env.sh"; echo "$SPARK_CONF_DIR $SPARK_DRIVER_MEMORY"'
    env = environment(SPARK_CONF_DIR=str(tmp_path), SPARK_DRIVER_MEMORY="5g")
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=env)
    assert shown.stdout.split() == [str(tmp_path) + ("" if others else "/none"), "5g"]
