"""Wrong inputs of --task predict: one clear line each, before anything is computed; and what is right."""

import pandas as pd
import pytest

from spark_embed.config import Config
from spark_embed.datasets import find_layout, open_source
from spark_embed.errors import SparkEmbedError
from spark_embed.load_config import load_config

from support.tabular import GOOD, write_config, write_state

FRAME = pd.DataFrame([{"user_id": "007", **GOOD}] * 3)


@pytest.fixture
def model(tmp_path):
    folder = write_config(tmp_path / "model")
    write_state(folder / "model.pt")
    return folder


def no_session():
    raise AssertionError("nothing may be computed")


def open_table(path, model, tmp_path, **options):
    given = {"task": "predict", "id_column": "user_id", "model_directory": str(model), **options}
    config = Config(input_dir=str(path), output_dir=str(tmp_path / "out"), **given)
    index, catalogue = str(tmp_path / "index"), str(tmp_path / "catalogue")
    return open_source(no_session, config, find_layout(config), index_folder=index, catalogue_path=catalogue)


def csv_file(path, frame=FRAME, **options):
    frame.to_csv(path, index=False, **options)
    return path


def parquet_file(path, frame=FRAME):
    frame.to_parquet(path)
    return path


def mixed(folder):
    folder.mkdir()
    csv_file(folder / "a.csv")
    parquet_file(folder / "b.parquet")
    return folder


WRONG = {
    "no such file": (lambda t: t / "none.csv", {}, "none.csv: there is no such folder"),
    "no table by its name": (lambda t: csv_file(t / "a.xlsx"), {}, "a.xlsx: is no table by its name"),
    "nothing in a folder": (lambda t: t / "model", {}, "holds no table"),
    "two kinds": (lambda t: mixed(t / "m"), {}, "holds parquet (b.parquet) and text (a.csv); name one"),
    "CSV without a column": (
        lambda t: csv_file(t / "a.csv", FRAME.drop(columns="age")),
        {},
        "a.csv: has no column 'age', which the model's signature or --id_column names; it has user_id",
    ),
    "a header in another case": (
        lambda t: csv_file(t / "a.csv", FRAME.rename(columns={"age": "Age"})),
        {},
        "has no column 'age'",
    ),
    "parquet without a column": (
        lambda t: parquet_file(t / "a.parquet", FRAME.drop(columns="plan")),
        {},
        "a.parquet: has no column 'plan'",
    ),
    "no such id": (lambda t: csv_file(t / "a.csv"), {"id_column": "uid"}, "has no column 'uid'"),
    "an empty file": (
        lambda t: (t / "a.csv", (t / "a.csv").touch())[0],
        {},
        "it is empty, without even a header",
    ),
    "a torn parquet file": (
        lambda t: (p := parquet_file(t / "a.parquet"), p.write_bytes(p.read_bytes()[:-9]))[0],
        {},
        "none of 1 files can be read",
    ),
    "an option for images": (
        lambda t: csv_file(t / "a.csv"),
        {"image_column": "jpg"},
        "--image_column: is not for --task predict",
    ),
    "a name that the output needs": (
        lambda t: csv_file(t / "a.csv", FRAME.rename(columns={"user_id": "timestamp"})),
        {"id_column": "timestamp"},
        "a column 'timestamp', which the output needs",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_one_clear_line(tmp_path, model, case):
    make, options, said = WRONG[case]
    with pytest.raises(SparkEmbedError) as told:
        open_table(make(tmp_path), model, tmp_path, **options)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_ids_of_parquet_keep_their_type_and_features_have_that_of_the_signature(tmp_path, model):
    path = parquet_file(tmp_path / "a.parquet", FRAME.assign(user_id=7, extra="x"))
    source = open_table(path, model, tmp_path, include_features=True)
    assert {one.name: one.dataType.simpleString() for one in source.own_columns} == {
        "user_id": "bigint",
        "age": "bigint",
        "income": "double",
        "is_premium": "boolean",
        "region": "bigint",
        "plan": "string",
    }


@pytest.mark.parametrize(
    "flags",
    [
        "--input I --output O --model M --batch-size 3 --id-column=u --include-features",
        "--input_dir I --output_dir=O --model_directory M --batch_size=3 --id_column u --include_features",
    ],
)
def test_flags_have_more_than_one_spelling(flags):
    config = load_config(["--task", "predict", *flags.split()], {})
    assert (config.input_dir, config.output_dir, config.model_directory) == ("I", "O", "M")
    assert (config.batch_size, config.id_column, config.include_features) == (3, "u", True)


def test_options_of_tables_are_for_tables():
    with pytest.raises(SparkEmbedError, match=r"--include_features .*is for --task predict"):
        load_config(["--input", "I", "--output", "O", "--include_features"], {})
