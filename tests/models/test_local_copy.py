"""A folder in S3 as a copy on this machine: made once, whole or not at all, and where it is kept."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from spark_embed import storage
from spark_embed.errors import NoSpaceError, StorageError
from spark_embed.models.local_copy import copy_folder

from support.waiting import wait_until

# Some workers: forked, as Spark's daemon forks them.
PROGRAM = """
import boto3, json, os, sys
from spark_embed import storage
from spark_embed.models.local_copy import copy_folder
for _ in range(int(sys.argv[2]) - 1):
    if not os.fork():
        break
answer = copy_folder(sys.argv[1], storage.list_folder(sys.argv[1])), storage.traffic.n_bytes
os.write(1, f"{json.dumps(answer)}\\n".encode())
"""

pytestmark = pytest.mark.usefixtures("model_copies")

FILES = {"config.json": b"{}", "model.safetensors": os.urandom(100_000), "empty.json": b""}
N_BYTES = sum(map(len, FILES.values()))


@pytest.fixture
def source(bucket, s3_server) -> str:
    """A folder in S3."""
    for name, data in FILES.items():
        s3_server.client().put_object(Bucket=bucket, Key=f"models/m/{name}", Body=data)
    return f"s3a://{bucket}/models/m"


def make_copy(source) -> Path:
    return Path(copy_folder(source, storage.list_folder(source)))


def start(source, n_workers=1) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, source, str(n_workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_made_once_and_kept(source, model_copies):
    copy = make_copy(source)
    assert copy.parent == model_copies
    assert contents(copy) == FILES
    before = storage.traffic.n_bytes
    assert make_copy(source) == copy
    assert storage.traffic.n_bytes == before


def test_another_content_is_another_copy(source, bucket, s3_server):
    old = make_copy(source)
    s3_server.client().put_object(Bucket=bucket, Key="models/m/config.json", Body=b"[]")  # of the same size
    new = make_copy(source)
    assert new != old
    assert (old / "config.json").read_bytes() == b"{}"
    assert (new / "config.json").read_bytes() == b"[]"


def test_of_many_that_want_it_at_once_one_fetches_it(source, model_copies, bad_s3):
    bad_s3.rate, bad_s3.only, bad_s3.faults, bad_s3.delay_s = 1, {"GetObject"}, ("delay",), 2
    said, _ = start(source, n_workers=10).communicate(timeout=100)
    answers = [json.loads(line) for line in said.splitlines()]
    assert len({copy for copy, _ in answers}) == 1
    assert sorted(n_bytes for _, n_bytes in answers) == [*[0] * 9, N_BYTES]
    assert bad_s3.met["delay", "GetObject"] == 2  # none for the empty one
    assert contents(Path(answers[0][0])) == FILES
    assert sorted(path.suffix for path in model_copies.iterdir()) == ["", ""]  # the copy and the lock


def test_who_is_killed_while_fetching_leaves_nothing_that_is_taken_for_a_copy(source, model_copies, bad_s3):
    bad_s3.fail_next("GetObject", "none", "delay")  # config.json comes, the weights do not
    bad_s3.delay_s = 1000
    worker = start(source)
    wait_until(lambda: bad_s3.met["delay", "GetObject"], "the weights are asked for")
    waiting = start(source)  # finds it under way
    time.sleep(2)
    assert waiting.poll() is None
    worker.kill()
    worker.communicate()
    copy, n_bytes = json.loads(waiting.communicate(timeout=100)[0])
    assert n_bytes == N_BYTES
    assert contents(Path(copy)) == FILES
    assert sorted(path.suffix for path in model_copies.iterdir()) == ["", ""]


def test_what_the_dead_have_left_is_deleted(source, model_copies):
    left = model_copies / "tmpx.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    make_copy(source)
    assert not left.exists()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_a_copy_of_which_a_file_is_missing_or_cut_is_made_anew(source, spoil):
    copy = make_copy(source)
    spoil(copy / "model.safetensors")
    assert make_copy(source) == copy
    assert contents(copy) == FILES


@pytest.fixture
def no_locks(monkeypatch) -> None:
    """A file system that knows none."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_where_the_file_system_has_no_locks_it_works_without(source, model_copies):
    others = model_copies / "tmpx.part"
    others.mkdir(parents=True)
    assert contents(make_copy(source)) == FILES
    assert others.exists()  # who knows whether they live


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_copy_of_another_one_is_as_good(source, model_copies, monkeypatch):
    rename = os.rename

    def be_second(folder, copy):
        monkeypatch.setattr("os.rename", rename)
        shutil.copytree(folder, copy)
        rename(folder, copy)

    monkeypatch.setattr("os.rename", be_second)
    assert contents(make_copy(source)) == FILES
    assert len(list(model_copies.iterdir())) == 2


def test_a_failure_leaves_nothing(source, model_copies, bucket, s3_server):
    files = storage.list_folder(source)
    s3_server.client().delete_object(Bucket=bucket, Key="models/m/model.safetensors")
    with pytest.raises(StorageError, match=r"model\.safetensors: cannot be copied to .*no such object"):
        copy_folder(source, files)
    assert [path.name for path in model_copies.iterdir()] == ["lock"]


def test_a_copy_for_which_there_is_no_space_is_not_begun(source, monkeypatch):
    monkeypatch.setattr("spark_embed.storage.free_bytes", lambda path: N_BYTES - 1)
    before = storage.traffic.n_bytes
    with pytest.raises(NoSpaceError, match="no space left on the disk"):
        make_copy(source)
    assert storage.traffic.n_bytes == before


@pytest.mark.parametrize("home", ["relative", ""])
def test_a_cache_that_is_not_absolute_is_ignored(source, monkeypatch, tmp_path, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_copy(source).parent == tmp_path / ".cache/spark_embed/models"


@pytest.fixture
def no_home(monkeypatch, tmp_path) -> Path:
    """No home to write to; returns the folder that is kept in the system's temporary one instead."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"spark_embed-{os.getuid()}"


def test_where_no_home_can_be_written_to_it_is_kept_in_private_among_temporary_files(source, no_home):
    copy = make_copy(source)
    assert copy.parent == no_home / "models"
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert make_copy(source) == copy


@pytest.mark.parametrize("what", ["a link", "open to all", "a file"])
def test_a_temporary_folder_that_may_be_somebody_elses_is_refused(source, no_home, tmp_path, what):
    if what == "a link":
        (tmp_path / "theirs").mkdir()
        no_home.symlink_to(tmp_path / "theirs")
    elif what == "open to all":
        no_home.mkdir()
        no_home.chmod(0o777)
    else:
        no_home.touch()
    with pytest.raises(StorageError, match="XDG_CACHE_HOME names"):
        make_copy(source)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder somebody else's")
def test_a_temporary_folder_of_somebody_else_is_refused(source, no_home):
    no_home.mkdir(mode=0o700)
    os.chown(no_home, 65534, 65534)
    with pytest.raises(StorageError, match="somebody else's"):
        make_copy(source)
