"""What the tests of spark-embed verify share: how findings are read, and ways to damage a table."""

from pathlib import Path

import pyarrow as pa

from spark_embed.cli.main import main
from spark_embed.output.folder import Output

FIRST = "embeddings.parquet/part-00000.parquet"
SECOND = "embeddings.parquet/part-00001.parquet"
ERRORS = "errors.parquet/part-00000.parquet"


def findings(output: Output, capsys) -> list[str]:
    """Return what is found, by the command, without the notes; the exit code says the same."""
    code = main(["verify", output.root])
    told = capsys.readouterr()
    *lines, checked = told.out.splitlines()
    found = [" ".join(line.split(maxsplit=1)) for line in lines if not line.startswith("note ")]
    assert checked.startswith("checked  ")
    assert ("nothing is wrong" in checked) == (code == 0) == (not found)
    assert code in (0, 7)
    if code:
        (error,) = told.err.splitlines()
        assert f"ERROR   {output.root}: {len(found)} findings; " in error
    return found


def path_of(output: Output, name: str) -> Path:
    return Path(output.root, name)


def without(*positions: int):
    """Return a change that drops rows of a table."""
    return lambda table: table.filter(pa.array([i not in positions for i in range(len(table))]))


def with_column(name: str, change):
    """Return a change of a column's Python values."""

    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = change(table[name].to_pylist())
        return table.set_column(place, table.field(name), pa.array(values, table.field(name).type))

    return changed


def with_vector(position: int, vector: object):
    return with_column("embedding", lambda values: [*values[:position], vector, *values[position + 1 :]])
