"""spark-embed verify on whole data sets: rows that are there once, and what the state says of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import spark_embed.output.verify as verify_room
from spark_embed.cli.main import main
from spark_embed.output.folder import Output
from spark_embed.output.lock.lock import OutputLock
from spark_embed.output.records import Part, ShardState
from spark_embed.output.state import read_ledger, write_ledger
from spark_embed.output.verify import verify

from support.checkout import REPOSITORY
from support.output_files import (
    DIM,
    fingerprint,
    list_anew,
    make_output,
    make_progress,
    make_run,
    make_wave,
    publish,
    rewrite,
    write_summary,
    write_table,
)
from support.verified import FIRST, findings, path_of, with_vector


@pytest.fixture
def output(tmp_path) -> Output:
    return make_output(tmp_path / "out")


def test_a_good_data_set_is_good(output, capsys):
    assert main(["verify", output.root]) == 0
    told = capsys.readouterr()
    assert told.out == "checked  3 files, 14 rows with a vector, 3 without: nothing is wrong\n"
    assert told.err == ""


def test_a_data_set_without_a_row_is_good(tmp_path, capsys):
    output = Output(str(tmp_path))
    make_run(output)
    publish(output, [[]], {})
    assert findings(output, capsys) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("files.json", "put a copy back, or start anew with --overwrite"), ("run.json", "is broken")],
)
def test_a_broken_state(output, capsys, name, text):
    Path(output.state, name).write_text('{"generation": ')
    (found,) = findings(output, capsys)
    assert found.startswith(f"state {output.state}/{name}: is broken")
    assert text in found


def test_a_state_that_is_gone(output, capsys):
    Path(output.run_record).unlink()
    assert findings(output, capsys) == [
        "state run.json: is missing; put a copy back, or start anew with --overwrite"
    ]


def test_nothing_published_yet(tmp_path, capsys):
    output = Output(str(tmp_path))
    make_run(output)
    assert findings(output, capsys) == ["state nothing is published yet: no run has come to its end here"]


@pytest.mark.parametrize("name", [".", "nothing", "file"])
def test_a_folder_that_is_none_of_ours(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    assert main(["verify", str(tmp_path / name)]) == 2
    assert "give the --output_dir of a run" in capsys.readouterr().err


def test_a_summary_of_another_state(output, capsys):
    ledger = read_ledger(output)
    write_ledger(output, ledger.model_copy(update={"generation": 4}), ledger)
    assert findings(output, capsys) == [
        "metadata metadata.json: is of another state: a run was interrupted, start it again"
    ]
    Path(output.metadata).unlink()
    assert findings(output, capsys) == [
        "metadata metadata.json: is missing: a run was interrupted, start it again"
    ]
    Path(output.metadata).write_text("{")
    (found,) = findings(output, capsys)
    assert found.startswith(f"metadata {output.metadata}: cannot be read as JSON")


def test_a_summary_of_other_counts(output, capsys):
    summary = json.loads(Path(output.metadata).read_text())
    summary["counts"] |= {"errors": 4, "errors_by_code": {"corrupt": 3}}
    Path(output.metadata).write_text(json.dumps(summary))
    assert findings(output, capsys) == [
        "metadata metadata.json: counts.errors is 4, by files.json 3",
        "metadata metadata.json: counts.errors_by_code is {'corrupt': 3}, by files.json "
        "{'corrupt': 2, 'null_bytes': 1}",
    ]


def test_what_a_run_at_work_may_put_right_is_a_note(output, capsys):
    make_wave(output, "w", [Part("c.parquet", "1", 0, 1234)])
    make_progress(output, "embed", n_rows=1251)
    path_of(output, "embeddings.parquet/new.parquet").touch()
    Path(output.metadata).unlink()
    with OutputLock(output.lock, output.root):
        assert main(["verify", output.root]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    for text in (
        "a run is at work here: host ",
        "1 complete waves of 1,234 rows are not published yet",
        "17 of 1,251 rows are published",
        "embeddings.parquet/new.parquet: is not in files.json",
        "metadata.json: is missing",
    ):
        assert sum(text in note for note in notes) == 1
    assert len(notes) == 5


def test_an_older_data_set_is_compared_with_itself(output, capsys):
    make_run(output, "run-2", fingerprint(dtype="bfloat16", embedding_dim=99))
    assert main(["verify", output.root]) == 0
    assert "an older data set is still published" in capsys.readouterr().out
    rewrite(path_of(output, FIRST), with_vector(1, [0.5] * (DIM + 1)))
    list_anew(output)
    (found,) = findings(output, capsys)
    assert "not of length 4" in found


def test_what_is_published_anew_meanwhile_is_read_again(output, monkeypatch):
    """A run replaces the files while they are read: the state that it leaves is what counts."""
    path = path_of(output, FIRST)
    read = verify_room.find_unlisted
    generations = []

    def read_and_replace(output, ledger):
        generations.append(ledger.generation)
        found = list(read(output, ledger))
        if len(generations) == 1:
            path.rename(path.with_name("part-00007.parquet"))
            list_anew(output, generation=4)
        return found

    monkeypatch.setattr(verify_room, "find_unlisted", read_and_replace)
    assert verify(output).text() == "checked  3 files, 14 rows with a vector, 3 without: nothing is wrong"
    assert generations == [3, 4]


def test_a_run_that_publishes_all_the_time_is_told(output, capsys, monkeypatch):
    def publish_and_lose(output, ledger):
        path_of(output, FIRST).unlink(missing_ok=True)
        later = ledger.model_copy(update={"generation": ledger.generation + 1})
        write_ledger(output, later, ledger)
        return []

    monkeypatch.setattr(verify_room, "find_unlisted", publish_and_lose)
    assert main(["verify", output.root]) == 7
    told = capsys.readouterr()
    assert told.out == ""
    assert "verify it when no run is at work" in told.err


def test_a_flipped_bit_is_found_where_there_are_checksums(output, capsys):
    path = path_of(output, FIRST)
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    list_anew(output)
    assert findings(output, capsys) == []
    data = bytearray(path.read_bytes())
    value = np.float32(table["embedding"][2][1].as_py()).tobytes()
    data[data.index(value)] ^= 1
    path.write_bytes(data)
    (found, *_) = findings(output, capsys)
    assert found.startswith(f"files {FIRST}: cannot be read: ")
    assert "CRC" in found


MEASURE = """
import re, sys
from pathlib import Path
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify

def peak_kib():  # not getrusage: that may be of the process before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

verify(Output(sys.argv[1]))
before = peak_kib()
report = verify(Output(sys.argv[2]))
after = peak_kib()
seen = bytearray(500 << 20)
print(report.n_findings, after - before, peak_kib() - after)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    make_many(tmp_path / "few", 400_000)
    make_many(tmp_path / "many", 2_000_000)
    command = [sys.executable, "-c", MEASURE, tmp_path / "few", tmp_path / "many"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    n_findings, grown, seen = map(int, done.stdout.split())
    assert n_findings == 0
    assert grown < 60_000  # KiB, mostly of the allocator; the keys, as Python's, would take 250 MB
    assert seen > 200_000


def make_many(root: Path, n_rows: int) -> Output:
    """Publish shards of 20,000 rows with vectors of 2 numbers, in files of 100,000."""
    output = Output(str(root))
    made_by = fingerprint(embedding_dim=2)
    make_run(output, made_by=made_by)
    publish(output, [], {}, made_by=made_by)
    for start in range(0, n_rows, 100_000):
        rows = np.arange(start, start + 100_000)
        table = pa.table(
            {
                "caption": pa.nulls(len(rows), pa.string()),
                "shard": pc.cast(pa.array(rows // 20_000), pa.string()),
                "shard_row": rows % 20_000,
                "embedding": pa.ListArray.from_arrays(
                    np.arange(0, 200_001, 2, dtype=np.int32), np.ones(200_000, np.float32)
                ),
            }
        )
        write_table(
            table, Path(output.table("embeddings.parquet"), f"{start:09d}.parquet"), {"fingerprint": made_by}
        )
    shards = {str(number): ShardState("1", ((0, 20_000),)) for number in range(n_rows // 20_000)}
    write_summary(output, list_anew(output, shards=shards))
    return output
