"""What `spark-embed status` says of folders in every state, and while a run goes on."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spark_embed.cli.main import main
from spark_embed.output.folder import Output
from spark_embed.output.lock.lock import OutputLock
from spark_embed.output.lock.owner import make_record
from spark_embed.output.records import Part, ShardState
from spark_embed.output.state import delete_wave, read_ledger, write_ledger
from spark_embed.output.status import duration, read_status
from spark_embed.storage import write_json

from support.output_files import (
    list_anew,
    make_output,
    make_progress,
    make_run,
    make_wave,
)


def said(output: Output, capsys) -> str:
    assert main(["status", output.root]) == 0
    return capsys.readouterr().out


def put_dead_lock(output: Output) -> None:
    """Leave the lock of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    record = make_record("token").model_copy(update={"pid": ended.pid, "pid_started": "1"})
    write_json(output.lock, record.model_dump())


def test_a_complete_data_set(tmp_path, capsys):
    text = said(make_output(tmp_path / "out"), capsys)
    assert text.splitlines()[:5] == [
        "state   complete",
        "rows    17 of 17 complete (100.0 %)",
        "shards  2 of 2 complete",
        "speed   8.5 images/s, 17 images by this run",
        "errors  3 (2 corrupt, 1 null_bytes)",
    ]
    assert "model   tiny\n" in text
    assert "2 files published" in text
    assert "14 rows with a vector, 3 without" in text


def test_json_says_the_same(tmp_path, capsys):
    output = make_output(tmp_path / "out")
    assert main(["status", output.root, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["n_rows"], found["n_complete"]) == ("complete", 17, 17)
    assert found["errors_by_code"] == {"corrupt": 2, "null_bytes": 1}
    assert found["published"]["n_embedded"] == 14
    assert found["published"]["is_older"] is False
    assert (found["host"], found["left_s"]) == (None, None)


def test_a_run_at_work(tmp_path, capsys):
    output = make_output(tmp_path / "out")
    make_wave(output, "w1", [Part("c.parquet", "1", 0, 50)])
    make_wave(output, "w2", [Part("c.parquet", "1", 50, 33)])
    with OutputLock(output.lock, output.root):
        make_progress(
            output, "embed", n_rows=1017, n_complete=100, n_done_now=90, n_shards=3, left_s=734.0,
            n_complete_shards=2,
        )  # fmt: skip
        text = said(output, capsys)
    assert "state   running on host " in text
    assert "(embed)" in text
    assert "rows    100 of 1,017 complete (9.8 %)" in text
    assert "shards  2 of 3 complete when the run began" in text
    assert "speed   45.0 images/s, 90 images by this run, about 12 min left" in text
    assert "; 2 complete waves are not published yet" in text


def test_a_run_that_has_just_begun_has_no_speed_yet(tmp_path, capsys):
    """What progress.json says is of the run before."""
    output = make_output(tmp_path / "out")
    make_progress(output, "done", updated_s=time.time() - 5 * 3600)
    with OutputLock(output.lock, output.root):
        text = said(output, capsys)
    assert "(starting)" in text
    assert ", 5 h ago\n" in text
    assert "speed" not in text
    assert "17 of 17 complete" in text


def test_the_first_run_before_its_first_file(tmp_path, capsys):
    output = Output(str(tmp_path / "out"))
    with OutputLock(output.lock, output.root):
        text = said(output, capsys)
    assert text.splitlines()[1:] == [
        "rows    0 complete",
        "errors  0",
        "output  nothing is published yet",
    ]


@pytest.mark.parametrize("has_lock", [False, True])
@pytest.mark.parametrize("phase", ["embed", "publish"])
def test_a_run_that_died_is_interrupted(tmp_path, capsys, has_lock, phase):
    output = make_output(tmp_path / "out")
    make_progress(output, phase, n_rows=40)
    if has_lock:
        put_dead_lock(output)
    text = said(output, capsys)
    assert "state   interrupted: start the same command again, and it goes on" in text
    assert "17 of 40 complete (42.5 %)" in text
    assert " left" not in text


def test_a_run_that_ended_without_the_rest_is_incomplete(tmp_path, capsys):
    output = make_output(tmp_path / "out")
    make_progress(output, "done", n_rows=10_000_000)
    text = said(output, capsys)
    assert "state   incomplete: " in text
    assert "(0.0 %)" in text
    make_progress(output, "done", n_shards=3)  # one that cannot be read has no rows
    text = said(output, capsys)
    assert "state   incomplete: " in text
    assert "shards  2 of 3 complete\n" in text


def test_nearly_all_is_not_100_percent(tmp_path, capsys):
    output = make_output(tmp_path / "out")
    make_progress(output, "embed", n_rows=18_000, n_complete=17_999)
    assert "17,999 of 18,000 complete (99.9 %)" in said(output, capsys)


def test_complete_rows_are_counted_once(tmp_path):
    """Not those of waves that are published, of other runs, or of retried rows, published as errors."""
    output = make_output(tmp_path / "out")
    Path(output.progress).unlink()
    list_anew(output, waves=("taken",))
    make_wave(output, "taken", [Part("a.parquet", "1", 0, 10)])
    make_wave(output, "another", [Part("c.parquet", "1", 0, 100)], run_id="run-0")
    again = make_wave(output, "again", [], kind="retry")
    counted = again.counted.model_copy(update={"n_rows": 3})
    make_wave(output, "again", [], kind="retry", counted=counted)
    make_wave(output, "new", [Part("c.parquet", "1", 0, 4)])
    status = read_status(output)
    assert status.n_complete == 17 + 4
    assert status.n_waves == 2
    assert status.state == "interrupted"


def test_what_the_run_counts_goes_first(tmp_path):
    """A shard that is replaced or gone is still published, and no part of the input."""
    output = make_output(tmp_path / "out")
    make_progress(output, "embed", n_rows=20, n_complete=10, updated_s=time.time() - 5)
    make_wave(output, "counted", [Part("b.parquet", "2", 0, 3)], finished_at="2024-01-01T00:00:00+00:00")
    assert read_status(output).n_complete == 10
    make_wave(output, "later", [Part("b.parquet", "2", 3, 6)])
    assert read_status(output).n_complete == 16
    make_wave(output, "more", [Part("c.parquet", "1", 0, 60)])
    assert read_status(output).n_complete == 20


def test_errors_of_waves_count(tmp_path):
    output = make_output(tmp_path / "out")
    made = make_wave(output, "w", [Part("c.parquet", "1", 0, 4)])
    counted = made.counted.model_copy(update={"n_errors_by_code": {"timeout": 2, "corrupt": 1}})
    make_wave(output, "w", [Part("c.parquet", "1", 0, 4)], counted=counted)
    assert read_status(output).errors_by_code == {"corrupt": 3, "null_bytes": 1, "timeout": 2}


def test_an_older_data_set_is_not_taken_for_the_runs(tmp_path, capsys):
    output = make_output(tmp_path / "out")
    make_run(output, "run-2")
    make_wave(output, "w", [Part("a.parquet", "1", 0, 6)], run_id="run-2")
    text = said(output, capsys)
    assert "state   interrupted" in text
    assert "rows    6 complete" in text  # progress.json is of the older run, too
    assert "errors  0" in text
    assert "output  an older data set is still published: 2 files" in text


@pytest.mark.parametrize("name", [".", "nothing", "file"])
def test_a_folder_that_is_none_of_ours(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    assert main(["status", str(tmp_path / name)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "give the --output_dir of a run" in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["run.json", "files.json", "progress.json", "lock.json", "markers/w.json"])
def test_a_broken_file_is_told_in_a_line(tmp_path, capsys, name):
    output = make_output(tmp_path / "out")
    path = Path(output.state, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'{"product": "spark_embed", "format"')
    assert main(["status", output.root]) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


def test_a_flag_that_there_is_not(tmp_path, capsys):
    assert main(["status", str(tmp_path), "--jso"]) == 2
    assert "unrecognized arguments: --jso (--help lists the flags)" in capsys.readouterr().err


def test_while_a_run_publishes_no_row_is_lost_and_none_counts_twice(tmp_path):
    """Files appear and vanish between two reads: what status says only ever grows, and is never too much."""
    output = make_output(tmp_path / "out")
    Path(output.progress).unlink()
    base = read_ledger(output)
    n_done = [17, 17]  # at least, at most
    stop = threading.Event()

    def run() -> None:
        shards, ledger = dict(base.shards), base
        for number in range(10_000):
            if stop.is_set():
                return
            n_done[1] += 1
            make_wave(output, f"w{number}", [Part("c.parquet", "1", number, 1)])
            n_done[0] += 1
            shards["c.parquet"] = ShardState("1", ((0, number + 1),))
            one = ledger.results[-1]
            more = one.model_copy(update={"n_rows": one.n_rows + 1})
            files = (*ledger.results[:-1], more)
            ledger = ledger.model_copy(update={"shards": shards, "results": files, "waves": (f"w{number}",)})
            write_ledger(output, ledger, base)
            delete_wave(output, f"w{number}")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            at_least = n_done[0]
            status = read_status(output)
            assert at_least <= status.n_complete <= n_done[1]
    finally:
        stop.set()
        thread.join()
    assert n_done[0] > 20


def test_neither_spark_nor_torch_is_imported(tmp_path):
    output = make_output(tmp_path / "out")
    program = (
        "import sys\nfrom spark_embed.cli.main import main\n"
        "codes = [main([word, sys.argv[1]]) for word in sys.argv[2:]]"
        "\n"
        "print(codes, sorted({'pyspark', 'py4j', 'torch', 'transformers', 'timm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, output.root, "status", "verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0] []"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (3599, "1 h"),
        (3 * 3600 + 1200, "3 h 20 min"),
        (86_400 + 60, "1 d"),
        (190_000, "2 d 4 h"),
    ],
)
def test_times_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--help"], ["spark-embed status", "spark-embed verify", "--input_dir"]),
        (["status", "--help"], ["OUTPUT_DIR", "--json", "exit codes: 0 "]),
        (["verify", "--help"], ["OUTPUT_DIR", "7 something is wrong"]),
    ],
)
def test_help_says_what_there_is(capsys, argv, words):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_folder_must_be_given(capsys, command):
    assert main([command]) == 2
    assert "required: OUTPUT_DIR (--help lists the flags)" in capsys.readouterr().err
