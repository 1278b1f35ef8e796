"""Tables before a run: read whole, whatever they are stored in, and a line for each rule that is broken."""

import errno
import gzip
import json

import numpy as np
import pandas as pd
import pytest

from spark_embed.cli.main import main
from spark_embed.errors import ConfigError
from spark_embed.models.tabular.files import read_config
from spark_embed.models.tabular.signature import read_signature
from spark_embed.storage.s3.errors import S3PassingError
from spark_embed.tables import ids, predictions, reading
from spark_embed.tables.drift import find_drift
from spark_embed.tables.rules import Rules, read_rules, rules_of
from spark_embed.tables.validate import validate

from support.checkout import REPOSITORY
from support.customers import RANGES, customers

MODEL = REPOSITORY / "models/tabular_example"
N_ROWS = 300

RULES = """
min_rows: 100
max_rows: 1000
columns:
  age: {type: integer, min: 18, max: 79}
  avg_transaction: {type: number, min: 10, max: 500, nullable: true}
  region: {allowed: [1, 2, 3, 4]}
  income: {min: 20000, max_bad_fraction: 0.01}
"""

WRITERS = {
    "t.csv": lambda table, path: table.to_csv(path, index=False),
    "t.csv.gz": lambda table, path: table.to_csv(path, index=False),
    "semicolon.csv": lambda table, path: table.to_csv(path, index=False, sep=";", encoding="utf-8-sig"),
    "t.tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    "t.jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
    "t.parquet": lambda table, path: table.to_parquet(path, row_group_size=70),
}


@pytest.fixture
def rules(tmp_path) -> Rules:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    signature = read_signature(read_config(str(MODEL)), "the example")
    return read_rules(str(path)).also(rules_of(signature))


@pytest.mark.parametrize("name", WRITERS)
def test_a_good_table_is_valid_whatever_it_is_stored_in(name, rules, tmp_path):
    table = customers(N_ROWS)
    WRITERS[name](table, tmp_path / name)
    found = validate(str(tmp_path / name), rules, "user_id")
    assert (found.broken, found.row_count, found.columns) == ([], N_ROWS, list(table.columns))
    assert found.ranges["age"] == (table.age.min(), table.age.max())
    assert found.ranges["avg_transaction"] == pytest.approx(
        (table.avg_transaction.min(), table.avg_transaction.max())
    )
    assert set(found.ranges) == set(RANGES) - {"region", "category_preference"}


def put(row: int, column: str, value: object):
    """Return a function that changes one value of a table."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.loc[row, column] = value
        return table

    return change


BROKEN = {
    "wrong type": (put(2, "age", "old"), "age: wrong_type in 1 of 300 rows; row 3 'old' is no integer"),
    "half": (put(2, "age", 30.5), "age: wrong_type in 1 of 300 rows; row 3 '30.5' is no integer"),
    "missing": (put(299, "income", None), None),  # a hundredth may be bad
    "null": (put(4, "age", None), "age: missing_value in 1 of 300 rows; row 5 is empty"),
    "nullable": (put(4, "avg_transaction", None), None),
    "infinite": (
        put(0, "avg_transaction", "inf"),
        "avg_transaction: not_finite in 1 of 300 rows; row 1",
    ),
    "low": (put(9, "age", 17), "age: below_min in 1 of 300 rows; row 10 '17': the limit is 18"),
    "high": (put(9, "age", 80), "age: above_max in 1 of 300 rows; row 10 '80': the limit is 79"),
    "category": (
        put(7, "region", 5),
        "region: unknown_category in 1 of 300 rows; row 8 '5' is none",
    ),
    "id twice": (put(7, "user_id", "0000003"), "user_id: 1 rows repeat the value of an earlier one: 0000003"),
    "id missing": (put(7, "user_id", None), "user_id: missing_value in 1 of 300 rows; row 8 is empty"),
    "few": (lambda table: table.head(99), "99 rows, and there must be at least 100"),
    "many": (lambda table: pd.concat([table] * 4), "1,200 rows, and there may be at most 1,000"),
    "column": (lambda table: table.drop(columns="age"), "lacks age; it has user_id, income"),
    "none": (lambda table: table.head(0), "0 rows, and there must be at least 100"),
}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_rule_is_a_line(case, suffix, rules, tmp_path):
    change, line = BROKEN[case]
    table = change(customers(N_ROWS))
    if suffix == "parquet" and case in (
        "wrong type",
        "infinite",
    ):
        table = table.astype(str)
    elif suffix == "jsonl" and case == "none":
        pytest.skip("a JSONL file without lines has no columns either")
    WRITERS[f"t.{suffix}"](table, tmp_path / f"t.{suffix}")
    broken = validate(str(tmp_path / f"t.{suffix}"), rules, "user_id").broken
    if case == "many":
        broken = [text for text in broken if "repeat" not in text]
    assert len(broken) == (line is not None), broken
    assert line is None or line in broken[0]


def test_rows_that_are_none_are_counted_and_their_values_are_not(rules, tmp_path):
    text = customers(N_ROWS).to_csv(index=False).splitlines()
    text[3:3] = ["1,2,3", "a,b"]
    (tmp_path / "t.csv").write_text("\n".join(text))
    found = validate(str(tmp_path / "t.csv"), rules, "user_id")
    assert found.row_count == N_ROWS + 2
    (line,) = found.broken
    assert "2 rows cannot be read as such; row 3: wrong_field_count: 3 fields" in line
    for fraction, n_broken in ((2.1 / (N_ROWS + 2), 0), (1.9 / (N_ROWS + 2), 1)):
        some = rules.model_copy(update={"max_bad_rows_fraction": fraction})
        found = validate(str(tmp_path / "t.csv"), some, "user_id")
        assert (found.n_bad_rows, len(found.broken)) == (2, n_broken)
        assert "302 rows, 2 of which cannot be read as such" in found.text()


def test_a_table_that_the_store_does_not_list_is_a_line(monkeypatch, capsys):
    def refuse(path: str) -> None:
        raise S3PassingError("the store cannot be reached")

    for module in (reading, predictions):
        monkeypatch.setattr(module, "exists", refuse)
    assert main(["validate", "s3://bucket/t.csv"]) == 4
    assert main(["drift", "s3://bucket/t.csv", "s3://bucket/u.csv"]) == 4
    assert capsys.readouterr().err.count("cannot be listed: the store cannot be reached") == 2


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (S3PassingError("the store cannot be reached"), 4),
        (PermissionError("access denied"), 4),
        (OSError(errno.EIO, "input/output error"), 4),
        (OSError("Corrupt snappy compressed data."), 7),
    ],
)
def test_a_file_that_the_store_does_not_give_is_no_broken_rule(failure, code, tmp_path, monkeypatch, capsys):
    def refuse(path: str) -> None:
        raise failure

    customers(5).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(reading, "parquet_input", refuse)
    assert main(["validate", str(tmp_path / "t.parquet")]) == code
    assert str(failure) in "".join(capsys.readouterr())


def test_the_files_of_a_folder_are_one_table(rules, tmp_path):
    table = customers(N_ROWS)
    table.iloc[:100].to_csv(tmp_path / "a.csv", index=False)
    table.iloc[90:][table.columns[::-1]].to_parquet(tmp_path / "b.parquet")  # other order, ten ids again
    (tmp_path / "_SUCCESS").write_text("")
    found = validate(str(tmp_path), rules, "user_id")
    assert found.row_count == N_ROWS + 10
    (line,) = found.broken
    assert line.startswith("user_id: 10 rows repeat the value of an earlier one: 0000090")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", b""),
        ("t.csv.gz", gzip.compress(b"user_id,age\n" + b"1,20\n" * 9999)[:-20]),
        ("t.parquet", b"PAR1 and no more"),
        ("t.csv", b'user_id,age\n1,"20\n2,30\n'),
        ("t.jsonl", b"[1]\n"),
    ],
)
def test_what_cannot_be_read_is_a_line(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    broken = validate(str(tmp_path / name), Rules(), "user_id").broken
    assert any("cannot be read" in line or "lacks user_id" in line for line in broken), broken


def test_columns_of_every_kind_are_read(tmp_path):
    table = customers(50)
    table["plan"] = pd.Categorical(["free", "paid"] * 25)
    table = table.assign(seen=pd.Timestamp("2026-01-01"), digest=b"\xff", tags=[["new"]] * 50, note="x")
    table.loc[3, ["seen", "digest", "tags", "note"]] = None
    table.to_parquet(tmp_path / "t.parquet")
    names = ("seen", "digest", "tags", "note")
    rules = Rules.model_validate(
        {"columns": {"plan": {"allowed": ["free", "paid"]}, **{n: {} for n in names}}}
    )
    found = validate(str(tmp_path / "t.parquet"), rules)
    assert found.broken == [f"{name}: missing_value in 1 of 50 rows; row 4 is empty" for name in names]
    columns = find_drift([str(tmp_path / "t.parquet")], [str(tmp_path / "t.parquet")], 0.25).columns
    assert {column.psi for column in columns} == {0.0}


def test_columns_that_no_rule_names_can_be_refused(tmp_path):
    customers(5).to_csv(tmp_path / "t.csv", index=False)
    rules = Rules.model_validate({"extra_columns": "refuse", "columns": {name: {} for name in RANGES}})
    (line,) = validate(str(tmp_path / "t.csv"), rules).broken
    assert line.endswith("has columns of no rule: user_id")


def test_ids_whose_hashes_are_equal_are_not_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ids.pd.util, "hash_array", lambda texts, categorize: np.zeros(len(texts), np.uint64))
    customers(50).to_csv(tmp_path / "t.csv", index=False)
    assert validate(str(tmp_path / "t.csv"), Rules(), "user_id").broken == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colums: {}", "unknown rule 'colums'; did you mean columns?"),
        ("columns: {age: {minimum: 3}}", "unknown rule 'columns.age.minimum'; did you mean min?"),
        ("columns: {age: {type: text}}", "columns.age.type 'text': must be 'integer', 'number' or 'boolean'"),
        ("columns: {age: {min: 3, max: 2}}", "columns.age: min 3 is above max 2"),
        (
            "columns: {age: {allowed: [1], min: 2}}",
            "columns.age: allowed says all: leave type, min",
        ),
        ("min_rows: -1", "min_rows -1: must be greater than or equal to 0"),
        ("- age", "must hold lines such as"),
    ],
)
def test_a_wrong_rule_is_told_with_its_name(text, said, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--rules") as caught:
        read_rules(str(path))
    assert said in str(caught.value)


def test_the_command_says_it_to_people_and_to_machines(tmp_path, capsys):
    path = tmp_path / "t.csv"
    put(2, "age", "old")(customers(N_ROWS)).to_csv(path, index=False)
    flags = ["--signature", str(MODEL), "--id_column", "user_id"]
    assert main(["validate", str(path), *flags]) == 7
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "age: wrong_type in 1 of 300 rows; row 3 'old' is no integer",
        f"{path}: 300 rows: 1 rules are broken",
    ]
    assert main(["validate", str(path), *flags, "--json"]) == 7
    found = json.loads(capsys.readouterr().out)
    assert (found["row_count"], found["is_valid"], found["broken"]) == (300, False, lines[:1])
    assert main(["validate", str(path), "--id_column", "user_id"]) == 0
    assert main(["validate", str(tmp_path / "none.csv")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
