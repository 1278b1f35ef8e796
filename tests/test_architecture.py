"""Rules that a machine keeps: import directions, and what the driver must not import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkout import REPOSITORY


def test_imports_keep_their_directions():
    """The contracts are in pyproject.toml, under tool.importlinter."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module", ["spark_embed.pipeline", "spark_embed.cli.main", "spark_embed.service.batch"]
)
def test_the_driver_imports_neither_torch_nor_transformers(module):
    program = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'timm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_alone_imports_no_spark():
    program = "import sys, spark_embed; print('pyspark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_wrong_is_told_before_anything_slow_is_imported_or_started():
    wrong = [
        ["--nope", "1"],
        ["--input_dir", "/usr", "--output_dir", "b", "--batch_size", "many"],
        ["--input_dir", "/no/such", "--output_dir", "b"],
        ["--input_dir", "/usr", "--output_dir", "/usr/b"],
    ]
    program = (
        f"import sys; from spark_embed.cli.main import main; codes = [main(argv) for argv in {wrong}];"
        "from spark_embed.spark.early_daemon import start_early_daemon as start;"
        "print(codes, {'pyspark', 'pyarrow', 'numpy', 'torch'} & set(sys.modules), start.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2, 2, 2, 2] set() 0", done.stderr


@pytest.mark.parametrize("program", [["-m", "spark_embed"], ["jobs/embed.py"], ["jobs/classify.py"]])
def test_the_command_has_a_version_in_each_form(program):
    done = subprocess.run(
        [sys.executable, *program, "--version"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"spark-embed \S+, pyspark [34]\S+, Python 3\S+\n", done.stdout)


def test_functions_stay_short_and_take_few_parameters():
    import ast

    too_big = []
    for path in sorted((REPOSITORY / "spark_embed").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = node.end_lineno - node.lineno + 1
                n_parameters = len(
                    [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
                )
                if n_lines > 60 or n_parameters > 6:
                    too_big.append(
                        f"{path.name}:{node.lineno} {node.name}: {n_lines} lines, {n_parameters} parameters"
                    )
    assert too_big == []


def test_one_file_reaches_for_the_spark_context_and_its_jvm():
    words = ("sparkContext", "SparkContext", "._jvm", "._jsc")
    files = {
        path.relative_to(REPOSITORY / "spark_embed").as_posix()
        for path in (REPOSITORY / "spark_embed").rglob("*.py")
        if any(word in path.read_text() for word in words)
    }
    assert files == {"spark/context.py"}
