import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_embed.storage import rows_per_batch


@pytest.fixture
def file(tmp_path):
    """Two row groups of ten rows: images of 1,000 bytes, then of 4,000; captions of 100."""
    images = [bytes([row]) * 1000 for row in range(10)] + [bytes([row]) * 4000 for row in range(10)]
    table = pa.table({"image": images, "caption": [f"{row:0100}" for row in range(20)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=10, use_dictionary=False, write_statistics=False)
    with pq.ParquetFile(path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("budget", "options", "least", "most"),
    [
        (52_000, {}, 19, 20),  # 2,600 bytes a row
        (52_000, {"group": 0}, 45, 47),  # 1,100
        (52_000, {"columns": ("caption",)}, 480, 520),
        (52_000, {"columns": ("image",), "group": 1}, 12, 13),
        (52_000, {"max_rows": 7}, 7, 7),
        (10, {}, 1, 1),
    ],
)
def test_as_many_rows_as_the_budget_holds(file, budget, options, least, most):
    assert least <= rows_per_batch(file, budget, **options) <= most


def test_a_row_counts_as_one_byte_at_least(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"one": [1] * 100_000}), path)
    with pq.ParquetFile(path) as file:
        assert rows_per_batch(file, 1000) == 1000


def test_an_empty_file_has_a_number_too(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"one": pa.array([], pa.int64())}), path)
    with pq.ParquetFile(path) as file:
        assert rows_per_batch(file, 1000) >= 1
