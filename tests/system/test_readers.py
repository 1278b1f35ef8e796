"""Readers of the output while runs append to it and replace in it: what was promised to them holds."""

import shutil
import threading
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.output.folder import Output
from spark_embed.output.state import read_ledger

KEYS = ["shard", "shard_row"]


def keys_in(folder, names):
    """Return how often each row is in some files of a folder."""
    counts = Counter()
    for name in names:
        table = pq.read_table(folder / name, columns=KEYS, partitioning=None)
        counts.update(zip(table["shard"].to_pylist(), table["shard_row"].to_pylist(), strict=True))
    return counts


class Reader(threading.Thread):
    """Reads, again and again, the files that are listed, and the bare folder.

    `states` are the generations that were read whole; `wrong` is what no reader should see.
    """

    def __init__(self, out, always):
        super().__init__(daemon=True)
        self._out, self._always = out, always
        self._stop_reading = threading.Event()
        self.states, self.wrong = set(), []

    def run(self):
        while not self._stop_reading.is_set():
            self._read_listed()
            self._read_folder()

    def stop(self):
        self._stop_reading.set()
        self.join(60)

    def _read_listed(self):
        ledger = read_ledger(Output(str(self._out)))
        try:
            rows = keys_in(self._out / "embeddings.parquet", [file.name for file in ledger.results])
            rows += keys_in(self._out / "errors.parquet", [file.name for file in ledger.errors])
        except FileNotFoundError:
            if read_ledger(Output(str(self._out))).generation == ledger.generation:
                self.wrong.append(f"a file of generation {ledger.generation} is gone before there is another")
            return
        promised = Counter(
            (name, row)
            for name, state in ledger.shards.items()
            for first, number in state.ranges
            for row in range(first, first + number)
        )
        if rows != promised:
            self.wrong.append(
                f"generation {ledger.generation}: {rows - promised} more, {promised - rows} less"
            )
        self.states.add(ledger.generation)

    def _read_folder(self):
        """A file may go between listing and reading: then the folder is listed again."""
        try:
            rows = Counter()
            for kind in ("embeddings.parquet", "errors.parquet"):
                folder = self._out / kind
                rows += keys_in(folder, sorted(path.name for path in folder.iterdir()))
        except FileNotFoundError:
            return
        if missing := self._always - rows.keys():
            self.wrong.append(f"the folder lacks {sorted(missing)}")


@pytest.mark.slow
def test_readers_see_complete_states_while_the_data_set_grows_and_changes(
    embed, shards, tmp_path, photo_bytes
):
    folder = shutil.copytree(shards, tmp_path / "in")
    last = folder / "00002.parquet"
    later = last.rename(tmp_path / "later")
    embed(folder)
    always = {(f"0000{shard}.parquet", row) for shard in range(2) for row in range(3)}
    reader = Reader(embed.output_dir, always)
    reader.start()
    try:
        later.rename(last)
        embed(folder)  # append
        table = pa.table({"key": ["x"] * 3, "caption": ["y"] * 3, "width": [1] * 3, "jpg": photo_bytes[:3]})
        pq.write_table(table, folder / "00001.parquet")
        embed(folder)  # replace
        last.unlink()
        embed(folder, prune=True)
    finally:
        reader.stop()
    assert reader.wrong == []
    assert reader.states >= {0, 1, 2}
