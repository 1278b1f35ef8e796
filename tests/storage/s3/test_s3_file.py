"""An object read as a file: the right bytes of one content, with few requests, whatever the store does."""

import io
import os
import random
import re
import resource
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from spark_embed import storage
from spark_embed.errors import StorageError
from spark_embed.inference.fetch.ranges import RangeReader
from spark_embed.inference.fetch.rows import RowReader
from spark_embed.storage import file_version, traffic
from spark_embed.storage.s3.errors import (
    S3ChangedError,
    S3NotFoundError,
    S3PassingError,
)
from spark_embed.storage.s3.file import S3File, read_object

from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("short_s3_pauses")

BODY = random.Random(0).randbytes((24 << 20) + 7)


KEY = "a b/ü%20+.tar"


@pytest.fixture(scope="module")
def full(s3_server) -> str:
    """A bucket with an object of that body."""
    bucket = s3_server.make_bucket()
    s3_server.direct.put_object(Bucket=bucket, Key=KEY, Body=BODY)
    return bucket


@pytest.fixture
def path(full, bucket) -> str:
    """The object; not to be changed."""
    return f"s3a://{full}/{KEY}"


def use(proxy, **settings) -> None:
    """Let a proxy do something from now on."""
    for name, value in settings.items():
        setattr(proxy, name, value)


def ranges(seed: int, n: int) -> list[tuple[int, int]]:
    """Return places in the object and beyond its end: small and large, most of them beside the one before."""
    dice, found, offset = random.Random(seed), [], 0
    for _ in range(n):
        jump = dice.choice([0, 0, 0, dice.randrange(2000), -dice.randrange(300_000), None])
        offset = dice.randrange(len(BODY) + 1000) if jump is None else max(0, offset + jump)
        size = dice.choice([0, 1, dice.randrange(512), dice.randrange(200_000), dice.randrange(3 << 20)])
        found.append((offset, size))
        offset += size
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_range_is_its_own(path, seed):
    file = S3File(path)
    for offset, size in ranges(seed, 60):
        assert file.read_at(offset, size) == BODY[offset : offset + size]


def test_it_is_a_file(path):
    with S3File(path) as file:
        assert (file.readable(), file.seekable(), file.tell(), file.n_bytes) == (True, True, 0, len(BODY))
        assert file.read(5) == BODY[:5]
        assert file.seek(10, io.SEEK_CUR) == 15
        assert file.read(3) == BODY[15:18]
        assert file.seek(-4, io.SEEK_END) == len(BODY) - 4
        assert file.read(100) == BODY[-4:]
        assert file.read(100) == b""
        assert file.seek(len(BODY) + 100) == len(BODY) + 100
        assert file.read() == b""
        file.seek(0)
        assert file.read(None) == BODY
        buffer = bytearray(7)
        file.seek(len(BODY) - 3)
        assert file.readinto(buffer) == 3
        assert buffer == BODY[-3:] + bytes(4)
    with io.BufferedReader(S3File(path)) as file:
        assert file.read() == BODY


def test_an_empty_object_is_read_without_asking_for_its_bytes(s3_server, bucket, bad_s3):
    s3_server.direct.put_object(Bucket=bucket, Key="a", Body=b"")
    assert S3File(f"s3://{bucket}/a").read() == b""
    assert bad_s3.requests == {"HeadObject": 1}
    assert read_object(f"s3://{bucket}/a")[0] == b""


class TestRequests:
    def read_on(self, file, step: int) -> None:
        for offset in range(0, len(BODY), step):
            assert file.read_at(offset, step) == BODY[offset : offset + step]

    @pytest.mark.parametrize("step", [30_000, 300_000])
    def test_of_reading_on_are_few(self, path, bad_s3, step):
        known = storage.stat(path)
        bad_s3.asked.clear()
        before = traffic.n_bytes
        self.read_on(S3File(path, known.n_bytes, known.etag), step)
        assert set(bad_s3.requests) == {"GetObject"}
        assert bad_s3.requests.total() <= 9  # 0.25, 0.5, 1, 2, 4, 8 and 8 MiB
        assert traffic.n_bytes - before == len(BODY)

    def test_of_small_reads_here_and_there_are_small(self, path, bad_s3):
        file = S3File(path)
        before = traffic.n_bytes
        for offset in (20 << 20, 3 << 20, 12 << 20, 6 << 20):
            assert file.read_at(offset, 100) == BODY[offset : offset + 100]
        assert traffic.n_bytes - before == 400
        assert bad_s3.requests == {"HeadObject": 1, "GetObject": 4}

    def test_of_neighbours_that_are_read_not_quite_in_order_are_few(self, path, bad_s3):
        """As the threads of a task read a tar: each place may come a few others too early or too late."""
        file, dice, before = S3File(path), random.Random(0), traffic.n_bytes
        places = [(offset, 50_000) for offset in range(0, len(BODY), 50_512)]
        places.sort(key=lambda place: place[0] + dice.random() * 6 * 50_512)
        for offset, size in places:
            assert file.read_at(offset, size) == BODY[offset : offset + size]
        assert bad_s3.requests["GetObject"] <= 25
        assert traffic.n_bytes - before <= 1.3 * len(BODY)


def test_many_threads_read_many_places(path):
    file = S3File(path)

    def read(seed: int) -> bool:
        return all(file.read_at(at, size) == BODY[at : at + size] for at, size in ranges(seed, 15))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(6)))


class TestAnotherObject:
    """What is read is of one content, or it is an error."""

    BODY = BODY[: 2 << 20]

    @pytest.fixture
    def replace(self, s3_server, bucket):
        return lambda body: s3_server.direct.put_object(Bucket=bucket, Key=KEY, Body=body)

    @pytest.fixture
    def path(self, bucket, replace) -> str:
        replace(self.BODY)
        return f"s3a://{bucket}/{KEY}"

    def test_of_the_same_size_in_the_middle_is_noticed(self, path, replace):
        file = S3File(path)
        assert file.read(1000) == self.BODY[:1000]
        replace(bytes(len(self.BODY)))
        with pytest.raises(S3ChangedError):
            file.read()

    def test_than_the_known_one_is_noticed(self, path, replace):
        known = storage.stat(path)
        replace(bytes(len(self.BODY)))
        with pytest.raises(S3ChangedError):
            S3File(path, known.n_bytes, known.etag).read(1)

    def test_that_is_gone_is_told(self, s3_server, bucket, path):
        file = S3File(path)
        s3_server.direct.delete_object(Bucket=bucket, Key=KEY)
        with pytest.raises(S3NotFoundError):
            file.read()
        with pytest.raises(FileNotFoundError):
            S3File(path)
        with pytest.raises(FileNotFoundError):
            read_object(path)

    def test_is_an_error_of_ranges_and_rows_with_the_path(self, path, replace):
        found = storage.stat(path)
        with_etag = file_version(found.n_bytes, found.modified_ns, found.etag)
        reader = RangeReader()
        assert reader.read(path, 5, 10, with_etag) == self.BODY[5:15]
        replace(bytes(len(self.BODY)))
        for ask in (reader.read, RangeReader().read):
            with pytest.raises(StorageError, match=f"{re.escape(path)}.* changed"):
                ask(path, 1 << 20, 10, with_etag)
        with pytest.raises(
            StorageError, match=f"{re.escape(path)} changed while it was being read; run again"
        ):
            RowReader("jpg").read(storage.spark_uri(path), 0, file_version(found.n_bytes, 0))

    def test_that_is_missing_is_named_whoever_reads(self, path):
        asks = [
            lambda missing: storage.stat(missing),
            lambda missing: storage.open_binary(missing),
            lambda missing: RangeReader().read(missing, 0, 1, "1-1"),
            lambda missing: RowReader("jpg").read(storage.spark_uri(missing), 0, "1-1"),
        ]
        for ask in asks:
            with pytest.raises(FileNotFoundError, match=f"^{re.escape(path)}x: there is no such object$"):
                ask(f"{path}x")


class TestBadStore:
    def test_gives_the_right_bytes(self, path, bad_s3):
        use(bad_s3, rate=0.2, delay_s=0.01)
        file = S3File(path)
        for offset, size in ranges(3, 90):
            assert file.read_at(offset, size) == BODY[offset : offset + size]
        assert bad_s3.met.total() > 3

    @pytest.mark.parametrize("n_bytes", [7, len(BODY)])
    def test_gives_an_object_whole(self, s3_server, bucket, bad_s3, n_bytes):
        s3_server.direct.put_object(Bucket=bucket, Key="a", Body=BODY[:n_bytes])
        bad_s3.delay_s = 0.01
        bad_s3.fail_next("GetObject", "cut", "slow_down", "cut", "reset", "delay")
        assert read_object(f"s3://{bucket}/a")[0] == BODY[:n_bytes]

    def test_that_breaks_off_why_there_is_nothing_is_asked_again(self, bucket, bad_s3):
        """The SDK lets through what happens while it reads the answer to a GET that failed."""
        bad_s3.fail_next("GetObject", "cut", "cut")
        with pytest.raises(FileNotFoundError):
            read_object(f"s3://{bucket}/missing")

    def test_that_is_away_for_some_seconds_is_waited_for(self, path, bad_s3, monkeypatch):
        monkeypatch.setattr("spark_embed.storage.s3.patience.MAX_PAUSE_S", 1.0)
        file = S3File(path)
        assert file.read(1000) == BODY[:1000]
        bad_s3.down()
        threading.Timer(1.5, bad_s3.up).start()
        began = time.monotonic()
        assert file.read() == BODY[1000:]
        assert time.monotonic() - began > 1.2

    def test_that_is_away_is_waited_for_by_many_threads(self, path, bad_s3, monkeypatch):
        """Not so by the SDK: its budget of retries is one for all, and soon used up."""
        monkeypatch.setattr("spark_embed.storage.s3.patience.MAX_PAUSE_S", 0.5)
        known = storage.stat(path)
        bad_s3.down()
        threading.Timer(1.5, bad_s3.up).start()

        def read(number: int) -> bytes:
            return S3File(path, known.n_bytes, known.etag).read_at(number, 10)

        with ThreadPoolExecutor(24) as pool:
            assert list(pool.map(read, range(24))) == [BODY[n : n + 10] for n in range(24)]

    def test_that_stays_away_is_an_error_after_some_attempts(self, path, bad_s3):
        file = S3File(path)
        bad_s3.asked.clear()
        use(bad_s3, rate=1.0, faults=("slow_down",))
        with pytest.raises(S3PassingError, match="SlowDown"):
            file.read()
        assert bad_s3.requests == {"GetObject": 12}
        bad_s3.asked.clear()
        use(bad_s3, faults=("cut",))
        with pytest.raises(S3PassingError, match="broke off"):
            read_object(path)
        assert bad_s3.requests == {"GetObject": 12}
        bad_s3.down()
        with pytest.raises(S3PassingError, match="cannot be reached"):
            file.read()
        with storage.impatient(), pytest.raises(S3PassingError):
            file.read()

    def test_of_which_a_piece_comes_each_time_is_read_to_the_end(self, s3_server, bucket, bad_s3):
        """An answer that breaks off counts as a failure only if nothing came."""
        s3_server.direct.put_object(Bucket=bucket, Key="a", Body=BODY[: 1 << 20])
        use(bad_s3, rate=1.0, faults=("cut",), only={"GetObject"})
        file = S3File(f"s3://{bucket}/a")
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(file.read)
            wait_until(lambda: bad_s3.requests["GetObject"] >= 15, "it gives up")
            bad_s3.rate = 0.0
            assert reading.result() == BODY[: 1 << 20]


def read_in_child(path, queue) -> None:
    queue.put(S3File(path).read())


def test_a_process_forked_from_one_that_reads_can_read(path):
    """As Spark's workers are forked from its daemon; threads and connections do not come along."""
    file = S3File(path)
    assert file.read(1 << 20) + file.read(2 << 20) == BODY[: 3 << 20]
    context = get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(path, queue))
    child.start()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(queue.get).result(20) == BODY
    child.join(20)
    assert child.exitcode == 0
    assert file.read() == BODY[3 << 20 :]


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_what_is_large_takes_little_memory_to_write_and_to_read(bucket):
    # In a process of its own: this one has held other tests' memory.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        grown = pool.submit(write_and_read, f"s3://{bucket}/a", dict(os.environ)).result()
    assert grown["writing"] < 80_000
    assert grown["reading"] < 80_000


def write_and_read(path: str, environment) -> dict[str, int]:
    """Write and read 120 MB; returns by how many kilobytes the peak of memory has grown."""
    from spark_embed.storage.s3.upload import S3Upload, complete_upload

    os.environ.update(environment)
    storage.write_text(path, "1")
    marks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    upload, piece = S3Upload(path), bytes(1 << 20)
    for _ in range(120):
        upload.write(piece)
    complete_upload(upload.finish())
    marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    file = S3File(path)
    while file.read(1 << 20):
        pass
    assert file.tell() == 120 << 20
    marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {"writing": marks[1] - marks[0], "reading": marks[2] - marks[0]}
