"""One outcome per reference, in order, in full batches; work ahead of the model; nothing left behind."""

import gc
import operator
import threading
import time
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image

from spark_embed.inference import feed
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import FetchPolicy, Reference

from support.fakes import MeanColour
from support.feeds import run_feed
from support.image_files import encode

PATIENCE_S = 20  # how long a test waits for what should happen at once


def colour_of(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 100


def image(number: int) -> Reference:
    """A small image whose colour tells its number."""
    return Reference(encode(Image.new("RGB", (4, 4), colour_of(number)), "PNG"))


def images(n: int) -> list[Reference]:
    return [image(number) for number in range(n)]


NO_IMAGE = Reference(None)


class KeepsInputs(MeanColour):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list = []

    def prepare(self, inputs):
        self.given.append(inputs)
        return super().prepare(inputs)


BROKEN = {
    "null_bytes": NO_IMAGE,
    "not_an_image": Reference(b"<html>404</html>"),
    "corrupt": Reference(image(0).inline[:-30]),
    "forbidden": Reference(None, "/etc/passwd"),
    "fetch_failed": Reference(None, "gs://bucket/a.jpg"),
    "too_many_pixels": Reference(encode(Image.new("RGB", (40, 40)), "PNG")),
    "too_many_bytes": Reference(bytes(5000)),
}


def rows_of(outcomes) -> list:
    """One entry per row: the colour that the vector holds, or the error's code."""
    rows = []
    for chunk in outcomes:
        assert len(chunk.columns["embedding"]) == 0 or chunk.columns["embedding"].dtype == np.float32
        vectors = iter(chunk.columns["embedding"])
        rows += [
            error.code if error else tuple(next(vectors)[:3].astype(int))
            for error in chunk.errors["embedding"]
        ]
        assert next(vectors, None) is None
    return rows


def decode_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def assert_no_thread_is_left() -> None:
    for thread in decode_threads():
        thread.join(PATIENCE_S)
    assert not decode_threads()


@pytest.mark.parametrize("isolated", [False, True])
def test_a_model_gets_large_jpegs_at_a_smaller_scale_and_is_told_what_of_them_is_picture(isolated):
    jpeg, model = Reference(encode(Image.new("RGB", (202, 101)))), KeepsInputs()
    list(run_feed([jpeg, image(1)], model, FeedOptions(min_edge=50, isolated=isolated)))
    assert [inputs.image.shape for inputs in model.given] == [(51, 101, 3), (4, 4, 3)]
    assert [inputs.box for inputs in model.given] == [(0, 0, 101, 50.5), None]
    list(run_feed([jpeg], model, FeedOptions(isolated=isolated)))
    assert (model.given[-1].image.shape, model.given[-1].box) == ((101, 202, 3), None)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_every_reference_has_its_outcome_in_order_whatever_is_broken(n_threads):
    references, expected = [], []
    for number in range(300):
        references.append(image(number))
        expected.append(colour_of(number))
        if number % 3 == 0:
            code = list(BROKEN)[number % len(BROKEN)]
            references.append(BROKEN[code])
            expected.append(code)
    limits = FeedOptions(n_threads=n_threads, max_pixels=1000, fetch=FetchPolicy(max_bytes=2000))

    assert rows_of(run_feed(references, MeanColour(), limits)) == expected
    assert set(expected) >= set(BROKEN)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("errors_between", [0, 1, 5])
def test_batches_are_full_but_for_the_last(n_threads, errors_between):
    references = (row for reference in images(100) for row in [reference, *[NO_IMAGE] * errors_between])
    model = MeanColour()

    outcomes = list(run_feed(references, model, FeedOptions(batch_size=32, n_threads=n_threads)))

    assert model.batch_sizes == [32, 32, 32, 4]
    for chunk in outcomes:  # the vectors were made in the batch that the model counted
        assert (chunk.columns["embedding"][:, 3] == len(chunk.columns["embedding"])).all()


def test_a_batch_may_be_larger_than_a_chunk_of_errors(monkeypatch):
    monkeypatch.setattr(feed, "MAX_ROWS_PER_CHUNK", 4)
    model = MeanColour()
    list(run_feed(images(16), model, FeedOptions(batch_size=8)))
    assert model.batch_sizes == [8, 8]


def test_a_long_run_of_errors_comes_out_piece_by_piece_without_the_model(monkeypatch):
    monkeypatch.setattr(feed, "MAX_ROWS_PER_CHUNK", 100)
    source = iter([NO_IMAGE] * 1000)
    model = MeanColour()
    outcomes = run_feed(source, model, FeedOptions(batch_size=8))
    assert next(outcomes).n_rows == 100
    assert operator.length_hint(source) > 800
    assert rows_of(outcomes) == ["null_bytes"] * 900
    assert model.batch_sizes == []


def test_good_rows_do_not_wait_for_ever_among_bad_ones(monkeypatch):
    monkeypatch.setattr(feed, "MAX_ROWS_PER_CHUNK", 100)
    references = [image(7), *[NO_IMAGE] * 150, image(8)]
    model = MeanColour()
    rows = rows_of(run_feed(references, model, FeedOptions()))
    assert rows == [colour_of(7), *["null_bytes"] * 150, colour_of(8)]
    assert model.batch_sizes == [1, 1]


def test_rows_that_predict_marks_as_failed_have_no_vector():
    model = MeanColour(unusable=lambda colour: colour[0] % 5 == 0)
    rows = rows_of(run_feed([NO_IMAGE, *images(70)], model, FeedOptions(batch_size=32)))
    assert rows == ["null_bytes", *(colour_of(n) if n % 5 else "bad_vector" for n in range(70))]


def test_no_reference_gives_no_outcome():
    assert list(run_feed([], MeanColour(), FeedOptions())) == []


def test_references_are_read_ahead_of_the_model_but_only_so_far():
    source = iter(images(400))
    model = MeanColour(during_predict=lambda batch: unread.append(operator.length_hint(source)))
    unread: list[int] = []
    list(run_feed(source, model, FeedOptions(batch_size=16, n_threads=2)))
    ahead = [400 - 16 * (n_before + 1) - n for n_before, n in enumerate(unread)]
    assert max(ahead) <= 2 * 16 + 2  # two batches beyond this one, and what the threads hold
    assert min(ahead[:20]) >= 2 * 16


def test_images_are_prepared_while_the_model_predicts():
    of_the_second_batch = threading.Event()
    waited = []

    def see(pixels):
        if pixels[0, 0, 0] >= 8:
            of_the_second_batch.set()

    def wait(batch):
        waited.append(of_the_second_batch.wait(PATIENCE_S))

    model = MeanColour(during_prepare=see, during_predict=wait)
    list(run_feed(images(16), model, FeedOptions(batch_size=8, n_threads=1)))
    assert waited == [True, True]


def test_threads_work_at_the_same_time():
    both = threading.Barrier(2, timeout=PATIENCE_S)
    model = MeanColour(during_prepare=lambda pixels: both.wait())
    assert len(rows_of(run_feed(images(8), model, FeedOptions(n_threads=2)))) == 8


def test_with_room_for_one_image_one_is_decoded_at_a_time():
    at_work = threading.Lock()
    met_nobody = []

    def note(pixels):
        met_nobody.append(at_work.acquire(blocking=False))
        zlib.crc32(bytes(1 << 20))  # gives the GIL away, so that others could meet it
        at_work.release()

    options = FeedOptions(n_threads=4, decode_memory_bytes=1)
    rows = rows_of(run_feed(images(100), MeanColour(during_prepare=note), options))
    assert rows == [colour_of(number) for number in range(100)]
    assert all(met_nobody)


class BugError(Exception):
    pass


def raise_bug(*_):
    raise BugError


@pytest.mark.parametrize("where", ["during_prepare", "during_predict", "unusable"])
def test_a_bug_in_the_model_comes_through_and_leaves_no_thread(where):
    with pytest.raises(BugError):
        list(run_feed(images(200), MeanColour(**{where: raise_bug}), FeedOptions(batch_size=8, n_threads=4)))
    assert_no_thread_is_left()


def test_a_source_that_breaks_comes_through_and_leaves_no_thread():
    def source():
        yield from images(50)
        raise BugError

    with pytest.raises(BugError):
        list(run_feed(source(), MeanColour(), FeedOptions(batch_size=8, n_threads=4)))
    assert_no_thread_is_left()


def test_a_model_that_loses_a_vector_is_not_believed():
    model = MeanColour()
    model.predict = lambda batch: MeanColour.predict(model, batch[1:])
    with pytest.raises(ValueError, match="7 values of embedding for 8 rows"):
        list(run_feed(images(8), model, FeedOptions(batch_size=8)))


def test_an_abandoned_feed_stops_reading_and_decoding_and_ends_its_threads():
    abandoned = threading.Event()
    prepared = []

    def note(pixels):
        prepared.append(pixels)
        if pixels[0, 0, 0] >= 8:  # beyond the first batch
            abandoned.wait(PATIENCE_S)

    source = iter(images(500))
    outcomes = run_feed(source, MeanColour(during_prepare=note), FeedOptions(batch_size=8, n_threads=2))
    next(outcomes)
    assert len(decode_threads()) == 2
    outcomes.close()
    abandoned.set()
    assert_no_thread_is_left()
    assert len(prepared) <= 8 + 2  # the first batch, and what each thread had begun
    assert operator.length_hint(source) > 450


class Watched(bytearray):
    """Bytes that can be watched: a bytearray takes no weak reference."""


def test_an_error_does_not_hold_its_image_in_memory():
    data = Watched(BROKEN["corrupt"].inline)
    alive = weakref.ref(data)
    references = [Reference(data)]
    del data
    (chunk,) = run_feed((references.pop() for _ in range(1)), MeanColour(), FeedOptions())
    gc.collect()
    assert chunk.errors["embedding"][0].code == "corrupt"
    assert chunk.errors["embedding"][0].detail
    assert alive() is None


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_times_add_up(n_threads):
    started = time.perf_counter()
    chunks = list(run_feed(images(200), MeanColour(), FeedOptions(n_threads=n_threads)))
    wall_s = time.perf_counter() - started
    totals = {name: sum(chunk.seconds[name] for chunk in chunks) for name in chunks[0].seconds}

    assert set(totals) == set(feed.STAGES)
    assert all(seconds >= 0 for chunk in chunks for seconds in chunk.seconds.values())
    assert totals["read_s"] + totals["wait_s"] + totals["predict_s"] <= wall_s
    assert 0 < totals["fetch_s"] + totals["decode_s"] <= n_threads * wall_s
