"""The shell of run.yml and deploy.yml: what it asks of AWS, Databricks and a registry, and shows of a run."""

import json
from pathlib import Path

import pytest
import yaml
from summarise_run import fenced

from support.checkout import REPOSITORY
from support.output_files import make_output

INPUTS = {
    "inputs__input_dir": "s3://bucket/my images",
    "inputs__output_dir": "s3://bucket/out",
    "inputs__resume": "true",
}
SUBMITTED = {
    "batch": '{"job_id": "0a1b", "job_queue": "spark-embed"}',
    "emr": '{\n  "cluster_id": "j-1",\n  "step_id": "s-1"\n}',
}


@pytest.mark.parametrize(
    ("inputs", "flags"),
    [
        ({}, []),
        ({"resume": "false"}, ["--overwrite=true"]),
        (
            {"batch_size": "64", "concurrency": "3", "flags": " --max_samples 10  --env=prod "},
            ["--batch_size=64", "--num_workers=3", "--max_samples", "10", "--env=prod"],
        ),
        (
            {"batch_size": '1"; touch pwned; "', "flags": "$(touch pwned) `touch pwned` ;touch *"},
            ['--batch_size=1"; touch pwned; "', "$(touch", "pwned)", "`touch", "pwned`", ";touch", "*"],
        ),
    ],
)
@pytest.mark.parametrize("target", ["batch", "emr"])
def test_a_run_is_submitted_with_the_inputs_as_flags_which_the_job_takes_as_they_are(
    runner, programs, tmp_path, target, inputs, flags
):
    programs.add("spark-embed", f"echo '{SUBMITTED[target]}'")
    made = runner(**{**INPUTS, **{f"inputs__{name}": text for name, text in inputs.items()}})
    assert made.run("run/run/the job's flags").returncode == 0
    place = {"batch": "run/run/run on AWS Batch", "emr": "run/run/run on Amazon EMR"}[target]
    done = made.run(place)
    assert done.returncode == 0, done.stderr
    expected = ["--input_dir=s3://bucket/my images", "--output_dir=s3://bucket/out", *flags]
    assert programs.calls[-1] == ["spark-embed", target, "submit", "--wait", "--", *expected]
    assert programs.calls[:-1] == ([["spark-embed", "emr", "deploy"]] if target == "emr" else [])
    assert json.loads((made.temp / "submitted").read_text()) == json.loads(SUBMITTED[target])
    assert not list(tmp_path.rglob("pwned"))
    assert not (REPOSITORY / "pwned").exists()


def test_the_flags_are_options_of_the_job(runner):
    from spark_embed.load_config import load_config

    made = runner(**{**INPUTS, "inputs__resume": "false"}, inputs__batch_size="auto", inputs__concurrency="3")
    made.run("run/run/the job's flags")
    config = load_config((made.temp / "flags").read_text().splitlines(), {})
    assert (config.input_dir, config.overwrite) == ("s3://bucket/my images", True)
    assert (config.batch_size, config.num_workers) == ("auto", 3)


def test_on_databricks_they_are_parameters_of_the_job(runner, programs):
    programs.add("databricks")
    made = runner(**{**INPUTS, "inputs__resume": "false"}, inputs__batch_size="64")
    made.run("run/run/the job's flags")
    assert made.run("run/run/run on Databricks").returncode == 0
    deployed, ran = programs.calls
    assert deployed == ["databricks", "bundle", "deploy", "-t", "prod"]
    assert ran[:7] == ["databricks", "bundle", "run", "-t", "prod", "embed", "--"]
    for path in (REPOSITORY / "deploy/databricks/resources").glob("*.yml"):
        (job,) = yaml.safe_load(path.read_text())["resources"]["jobs"].values()
        known = {f"--{parameter['name']}" for parameter in job["parameters"]}
        assert {word.partition("=")[0] for word in ran[7:]} <= known


LOG, END = "run/run/the driver's log", "run/run/end what was started, as this run is cancelled"


@pytest.mark.parametrize(
    ("place", "target", "words"),
    [
        ("run/run/the driver's log", "batch", "batch logs --job_id 0a1b"),
        ("run/run/the driver's log", "emr", "emr logs --cluster_id j-1"),
        (
            "run/run/end what was started, as this run is cancelled",
            "batch",
            "batch cancel --job_id 0a1b",
        ),
        (
            "run/run/end what was started, as this run is cancelled",
            "emr",
            "emr terminate --cluster_id j-1",
        ),
    ],
)
def test_what_was_started_is_looked_at_and_ended_by_its_id(runner, programs, place, target, words):
    programs.add("spark-embed", "echo the last line says why")
    made = runner(inputs__target=target)
    assert made.run(place).returncode == 0
    assert programs.calls == []  # nothing was started
    (made.temp / "submitted").write_text(SUBMITTED[target])
    assert made.run(place).stdout == "the last line says why\n"
    assert programs.calls == [["spark-embed", *words.split()]]


def test_a_failed_submission_fails_its_step_though_it_is_shown_as_it_runs(runner, programs):
    programs.add("spark-embed", "exit 11")
    made = runner(**INPUTS)
    made.run("run/run/the job's flags")
    assert made.run("run/run/run on AWS Batch").returncode == 11


def test_the_page_of_a_run_says_how_far_it_is_and_shows_some_errors(runner, tmp_path):
    """Of a whole run: test_readme.py."""
    made = runner(inputs__output_dir=make_output(tmp_path / "out").root)
    assert made.run("run/run/summary").returncode == 0
    assert "### complete" in made.summary
    assert "17 of 17 complete" in made.summary
    assert "3 rows in errors.parquet; 3 of them are among the results" in made.summary
    results = made.temp / "results"
    assert json.loads((results / "status.json").read_text())["state"] == "complete"
    errors = [json.loads(line) for line in (results / "errors.jsonl").read_text().splitlines()]
    assert [error["error"] for error in errors] == ["corrupt", "corrupt", "null_bytes"]


def test_what_is_in_a_text_ends_no_block_of_markdown():
    assert fenced("a") == "```text\na\n```"
    assert fenced("a\n````\nb") == "`````text\na\n````\nb\n`````"


def test_the_page_of_a_run_that_left_nothing_says_so_and_fails_no_more(runner, tmp_path):
    made = runner(inputs__output_dir=str(tmp_path / "none"))
    assert made.run("run/run/summary").returncode == 0
    assert "there is no such folder" in made.summary


def test_the_record_in_a_volume_is_fetched(runner, programs):
    programs.add("databricks", 'echo "{}" > "$4"')
    made = runner(inputs__output_dir="/Volumes/main/default/out")
    assert made.run("run/run/fetch the record from the volume").returncode == 0
    folder = made.outputs["folder"]
    source = "dbfs:/Volumes/main/default/out/metadata.json"
    assert programs.calls == [["databricks", "fs", "cp", source, f"{folder}/metadata.json"]]
    assert (Path(folder) / "metadata.json").exists()


@pytest.mark.parametrize("hub", ["", "me"])
@pytest.mark.parametrize("is_there", [False, True])
def test_what_was_scanned_is_pushed_once_and_named_by_its_digest(runner, programs, tmp_path, hub, is_there):
    there = tmp_path / "there"
    if is_there:
        there.touch()
    programs.add(
        "docker",
        f"""case "$1 $2" in
        "push --quiet") touch "{there}" ;;
        "buildx imagetools") [ -e "{there}" ] || exit 1; echo '{{"digest": "sha256:0f"}}' ;;
        esac""",
    )
    made = runner(matrix__target="job", steps__ecr__outputs__registry="ecr", vars__DOCKERHUB_USERNAME=hub)
    done = made.run("deploy/images/push what was scanned", GITHUB_SHA="c0ffee")
    assert done.returncode == 0, done.stderr
    assert made.outputs == {"image": "ecr/spark-embed-job", "digest": "sha256:0f"}
    assert "ecr/spark-embed-job@sha256:0f" in made.summary
    names = [] if is_there else ["ecr/spark-embed-job:c0ffee"]
    names += ["me/spark-embed-job:c0ffee", "me/spark-embed-job:latest"] if hub else []
    assert [call[3] for call in programs.calls if call[1] == "push"] == names
    tagged = [call[2:] for call in programs.calls if call[1] == "tag"]
    assert tagged == [["spark-embed-job:scanned", name] for name in names]


def test_the_image_that_was_pushed_is_the_job_definitions(runner, programs):
    programs.add("spark-embed")
    made = runner()
    place = "deploy/batch/a new revision of the job definition"
    assert made.run(place, GITHUB_SHA="c0ffee").returncode == 0
    assert programs.calls == [["spark-embed", "batch", "setup", "--parameter", "ImageTag=c0ffee"]]
    template = REPOSITORY / "deploy/aws_batch/template.yaml"
    if not template.exists():
        pytest.skip("no template of the stack here whose parameter it could be")
    assert "\n  ImageTag:\n" in template.read_text().partition("\nResources:")[0]
