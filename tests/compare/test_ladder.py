"""The ladder is whole: each step has a program that can be read, and its figures come to true sentences."""

import ast
import json
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from spark_embed.compare.ladder import JOB, STEPS, choose
from spark_embed.compare.measuring import Process, Sample, cpu_between, memory_between, watch
from spark_embed.compare.run import check_vectors
from spark_embed.compare.verdict import gains, judge, table
from spark_embed.errors import ConfigError, VerifyError

from support.checkout import REPOSITORY


def test_each_step_has_a_small_program_of_its_own_and_no_program_is_without_a_step():
    folder = REPOSITORY / "spark_embed/compare/steps"
    programs = {str(path.relative_to(REPOSITORY)) for path in folder.glob("[a-z]*.py")}
    assert [step.program for step in STEPS if step is not JOB] == sorted(
        programs, key=[step.program for step in STEPS].index
    )
    assert STEPS[-1] is JOB
    assert (REPOSITORY / JOB.program).is_file()
    for step in STEPS[:-1]:
        text = (REPOSITORY / step.program).read_text()
        assert len(text.splitlines()) <= 50
        assert ast.get_docstring(ast.parse(text))
        assert callable(import_module(step.module).embed)
        assert step.mistake.endswith(".")
        assert step.cure.endswith(".")


def changed_lines(one: str, other: str) -> int:
    """Return how many lines of code a program has that another lacks."""

    def code(program):
        tree = ast.parse((REPOSITORY / program).read_text())
        (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        return ast.unparse(function).splitlines()

    return len(set(code(other)) - set(code(one)))


def test_each_step_mends_one_thing_only():
    programs = [step.program for step in STEPS[:-1]]
    changes = [changed_lines(*pair) for pair in pairwise(programs)]
    assert all(1 <= n <= 10 for n in changes), changes
    assert sorted(changes)[len(changes) // 2] <= 3, changes


def test_the_job_is_the_last_whatever_is_chosen():
    assert [step.name for step in choose("two_udfs, float32")] == ["two-udfs", "float32", "job"]
    assert choose(None) == STEPS
    with pytest.raises(ConfigError, match=r"--only nope: no such step; there are one-partition, .*, job"):
        choose("float32,nope")


def test_cpu_seconds_and_memory_are_those_of_a_window():
    sizes = [(0, 0.0, 10e6), (1, 1.0, 30e6), (2, 1.5, 20e6), (3, 4.0, 20e6)]
    worker = Process(1, "worker", [Sample(at, cpu_s, int(size), int(size)) for at, cpu_s, size in sizes])
    jvm = Process(2, "jvm", [Sample(2, 5.0, int(1e6), int(1e6))])
    assert cpu_between([worker, jvm], 1, 2.9) == {"driver": 0, "jvm": 5.0, "python": 0.5}
    # The JVM's is gone a second after it was last seen.
    assert memory_between([worker, jvm], 0, 3) == [(0, 10.0), (1, 30.0), (2, 21.0), (3, 20.0)]


def test_a_process_is_watched_while_it_runs():
    program = "import time\nheld = bytearray(200 << 20)\nwhile time.process_time() < 0.6: pass"
    (process,) = watch([sys.executable, "-c", program])
    began, ended = process.samples[0].at, process.samples[-1].at
    assert 0.3 <= cpu_between([process], began - 1, ended)["driver"] <= 0.7
    assert process.peak_bytes > 200 << 20


def result(**changes):
    """A comparison of three steps in three rounds."""
    rates = {"slow": [10.0, 12.0, 11.0], "same": [40.0, 36.0, 33.0], "job": [41.0, 35.0, 34.0]}
    step = {
        "n_images": 100,
        "cpu_s": {"driver": 0.1, "jvm": 2.0, "python": 3.0},
        "n_model_loads": 2,
        "n_output_files": 4,
        "gpu": None,
        "min_cosine": 0.9995,
        "n_compared": 100,
        "jvm_python_mb": 0.5,
        "peak_mb": 1000.0,
    }
    steps = [{**step, "name": name, "title": name.title(), "images_per_s": rates[name]} for name in rates]
    steps[0] |= {"peak_mb": 3000.0, "jvm_python_mb": 120.0}
    steps[1] |= changes
    machine = {"text": "2 cores of a test", "n_cores": 2, "device": "cpu"}
    return {"steps": steps, "machine": machine, "model": {"name": "tiny", "dtype": "bfloat16"}, "n_rounds": 3}


def test_the_verdict_is_made_of_the_figures():
    assert gains(result()["steps"])[0] == [4.0, 3.0, 3.0]
    assert judge(result()) == [
        "The job does 35.0 images/s where the first step does 11.0: 3.09 (2.92-4.10) times as many, on "
        "2 cores of a test (cpu), with tiny.",
        "What costs most here: Slow (3.00 (3.00-4.00) times as fast without).",
        "No cost in speed that can be told from noise here: Same.",
        "Slow: costs memory, 3,000 MB at most where 1,000 do without it.",
        "Between JVM and Python went 1,200 KB an image, and of the job 5.0.",
        "All steps have the same vectors: the smallest cosine with the job's is 0.99950.",
    ]


def test_the_table_has_a_row_for_each_step():
    lines = table(result()).splitlines()
    assert len(lines) == 5
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2][:4] == ["Slow (100)", "11.0 (10.0-12.0)", "3.00 (3.00-4.00)", "0.1 2.0 3.0"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"min_cosine": 0.99}, "bfloat16"),
        ({"n_compared": 0}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_steps_with_other_vectors_are_no_comparison(changes, dtype):
    check_vectors(result())
    wrong = result(**changes)
    wrong["model"]["dtype"] = dtype
    with pytest.raises(VerifyError, match="its vectors are not the job's"):
        check_vectors(json.loads(json.dumps(wrong)))


def test_the_programs_are_found_where_the_figures_say():
    assert all(Path(REPOSITORY, step.program).is_file() for step in STEPS)
