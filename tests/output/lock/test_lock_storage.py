"""The file of a lock: what is no lock of ours, and file systems that are full or cannot do everything."""

import errno
import fcntl
import os

import pytest

from spark_embed.errors import ResumeError, StorageError

from support.locks import take, write_lock


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "out" / "_spark_embed" / "lock.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"token": ',
        "[]",
        "{}",
        "null",
        "\xff",
        {"pid": "1"},
        {"pid": True},
        {"pid": 0},
        {"pid": -1},
        {"pid": 1 << 31},
        {"heartbeat": float("nan")},
        {"heartbeat": 10**400},
        {"heartbeat": None},
        {"token": 1},
    ],
    ids=str,
)
def test_a_file_that_names_no_owner_is_left_as_it_is(path, text):
    write_lock(path, **(text if isinstance(text, dict) else {}))
    if isinstance(text, str):
        with open(path, "w", encoding="latin-1") as file:
            file.write(text)
    with open(path, "rb") as file:
        before = file.read()
    with pytest.raises(ResumeError) as refused, take(path):
        pass
    assert str(refused.value).startswith(f"{path}: does not say which run holds the folder")
    assert "delete it if no run is at work there" in str(refused.value)
    with open(path, "rb") as file:
        assert file.read() == before


def test_a_link_to_nothing_is_no_lock(path):
    write_lock(path)
    os.unlink(path)
    os.symlink("nowhere", path)
    with pytest.raises(ResumeError, match=r"lock\.json: does not say"):
        take(path).__enter__()


def test_what_a_later_version_adds_is_no_damage(path):
    write_lock(path, pid_started="1", colour="blue")
    with take(path) as lock:
        lock.check()


def test_a_folder_that_cannot_be_written_is_an_error_of_storage(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"lock\.json: cannot be written"):
        take(str(tmp_path / "file" / "lock.json")).__enter__()


def test_a_full_disk_is_an_error_of_storage_and_leaves_nothing(path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="o space left"):
        take(path).__enter__()
    assert os.listdir(os.path.dirname(path)) == ["lock.json.guard"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_flock_is_no_obstacle(path, monkeypatch, log, code):
    def flock(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    _check_all_of_it(path)
    assert log.messages == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_no_obstacle(path, monkeypatch, code):
    def link(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    _check_all_of_it(path)


def _check_all_of_it(path: str) -> None:
    with take(path) as lock:
        lock.check()
        with pytest.raises(ResumeError, match="another run holds it"):
            take(path).__enter__()
        lock.check()
    assert os.listdir(os.path.dirname(path)) == ["lock.json.guard"]
