"""Index: the nearest, by any condition never fewer than there are; other vectors are refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from spark_embed.cli import main as command
from spark_embed.cli.lazy_session import LazySession
from spark_embed.config import Config
from spark_embed.errors import ConfigError, ResumeError
from spark_embed.output.folder import Output
from spark_embed.search import index as index_module
from spark_embed.search import where as where_module
from spark_embed.search.build import BuildOptions, build_index
from spark_embed.search.index import Hit, Index
from spark_embed.search.where import Where

from support.output_files import fingerprint, make_run
from support.vector_sets import clustered, publish_vectors

ROWS = {"a": clustered(700, 1), "b": clustered(300, 2)}


@pytest.fixture(scope="module", params=["Flat", "IVF16,SQ8", "HNSW16,SQ8", "IVF16,RaBitQ,Refine(SQ8)"])
def root(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("out")
    publish_vectors(root, ROWS)
    build_index(str(root), options=BuildOptions(factory=request.param, part_rows=600))
    return root


@pytest.fixture
def table(root) -> pd.DataFrame:
    table = pd.concat([pd.read_parquet(root / "embeddings.parquet" / f"{name}.parquet") for name in ROWS])
    table["score"] = np.stack(table["embedding"].to_list()) @ ROWS["a"][0]
    return table.sort_values("score", ascending=False, ignore_index=True)


CONDITIONS = {
    "width > 650": lambda table: table["width"] > 650,
    "width is null": lambda table: table["width"].isna(),
    "caption like '%\"b\"%' and WIDTH < 40": lambda t: t["caption"].str.contains('"b"') & (t["width"] < 40),
    "caption = 'it''s \"a\" 13'": lambda table: table["image_id"] == "a-13",
    "image_id in ('a-1', 'b-2') -- two": lambda table: table["image_id"].isin(["a-1", "b-2"]),
    "false": lambda table: table["width"] < 0,
    "width = width + 0": lambda table: table["width"].notna(),
}


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("where", CONDITIONS)
def test_a_condition_leaves_as_many_as_there_are_and_only_those(root, table, where, is_large, monkeypatch):
    monkeypatch.setattr(index_module, "_SMALL", 0 if is_large else 10_000)
    meets = table[CONDITIONS[where](table)]
    hits = Index.open(str(root)).search(ROWS["a"][0], 20, where)
    assert len(hits) == min(20, len(meets))
    assert {hit.image_id for hit in hits} <= set(meets["image_id"])
    nearest = set(meets["image_id"][:20])
    assert len(nearest & {hit.image_id for hit in hits}) >= 0.8 * len(nearest)  # by codes of 8 bits
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_a_hit_has_the_rows_own_columns_and_its_cosine(root, table):
    [hit] = Index.open(str(root)).search(3 * ROWS["a"][13], 1)  # of any length
    assert (hit.image_id, hit.shard, hit.shard_row) == ("a-13", "a.tar", 26)
    assert hit.columns == {"caption": 'it\'s "a" 13', "width": 13}
    assert hit.score == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["b-7", "b.tar#14"])
def test_a_row_is_found_by_its_id_or_its_place(root, name):
    index = Index.open(str(root))
    number = index.rows.number_of(name)
    assert index.rows.locate(number) == ("b.parquet", 7)
    np.testing.assert_allclose(index.vector_of(number), ROWS["b"][7], atol=1e-6)
    assert index.hit(number, ["width"]).columns == {"width": 7}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nope > 1", "there is no column nope; there are caption, width, image_id, shard, shard_row"),
        ("embedding[1] > 0", "there is no column embedding"),
        ("width >", "syntax error"),
        ("caption > 5 + interval '1 day'", "--where"),
        ("true) union all select (7", "one condition"),
        ("width in (select 1)", "one condition"),
        ("true; drop table rows", "syntax error"),
        ("exists (from read_text('/etc/passwd'))", "one condition"),
        ("__row__ = 3", "there is no column __row__"),
        ("true) limit (1", "one condition"),
        ("true) using sample (1", "one condition"),
        ("true) group by (__row__", "one condition"),
        ("true) order by (width", "one condition"),
        ("true) qualify (true", "one condition"),
        ("#1 > 0", "by their names"),
        ("columns(*) > 1", "by their names"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(root, where, says):
    with pytest.raises(ConfigError, match="--where") as caught:
        Index.open(str(root)).search(ROWS["a"][0], 3, where)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_two_columns_have_but_for_its_case_is_refused():
    schema = pa.schema([("Width", pa.int64()), ("width", pa.int64()), ("height", pa.int64())])
    assert Where("HEIGHT > 1", schema).columns == ["height"]
    with pytest.raises(ConfigError, match="width is more than one column"):
        Where("WIDTH > 1", schema)


def test_a_condition_has_one_limit_for_all_its_rows(monkeypatch):
    monkeypatch.setattr(where_module, "LIMIT_S", 0.5)
    condition = Where("width > 1", pa.schema([("width", pa.int64())]))
    table = pa.table({"width": [1, 2]})
    assert condition.keep(table).tolist() == [False, True]
    condition._left_s = 0.0
    with pytest.raises(ConfigError, match="takes too long"):
        condition.keep(table)


def test_a_condition_reaches_neither_files_nor_this_program(root):
    condition = Where("true", Index.open(str(root)).rows.schema)
    for query in (
        "from read_text('/etc/passwd')",
        "set enable_external_access=true",
        "from root",
        "load httpfs",
    ):
        with pytest.raises(Exception, match=r"disabled|locked|does not exist|not found"):
            condition._connection.execute(query).fetchall()


def test_vectors_of_another_model_are_refused(tmp_path):
    publish_vectors(tmp_path, {"a": clustered(20)})
    build_index(str(tmp_path))
    index = Index.open(str(tmp_path))
    for vector, says in (
        (np.ones(5), "another model's"),
        (np.zeros(32), "no direction"),
        (np.full(32, np.nan), "NaN"),
    ):
        with pytest.raises(ConfigError, match=says):
            index.search(vector)
    make_run(Output(str(tmp_path)), made_by=fingerprint(embedding_dim=32, weights_sha256="1" * 64))
    with pytest.raises(ResumeError, match="holds other vectors by now"):
        Index.open(str(tmp_path))


def test_the_commands(tmp_path, capsys):
    publish_vectors(tmp_path, ROWS)
    assert command.main(["index", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["n_vectors"], told["factory"], told["recall"]) == (1000, "Flat", 1.0)
    asked = ["search", str(tmp_path), "--id", "a-13", "-k", "5", "--where", "width > 3"]
    assert command.main([*asked, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    vectors = np.concatenate(list(ROWS.values()))
    widths = np.concatenate([[row if row % 10 else -1 for row in range(len(rows))] for rows in ROWS.values()])
    truth = [row for row in np.argsort(-(vectors @ ROWS["a"][13])) if row != 13 and widths[row] > 3][:5]
    assert [one["image_id"] for one in found] == [f"a-{r}" if r < 700 else f"b-{r - 700}" for r in truth]
    assert found[0]["score"] == pytest.approx(vectors[truth[0]] @ ROWS["a"][13], abs=1e-5)
    assert command.main([*asked, "--columns", "width"]) == 0
    assert f"width={found[0]['columns']['width']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--id", "a-1", "--text", "dog"], "--id: goes with neither"),
        ([], "--image FILE, --text WORDS or --id IMAGE_ID"),
        (["--id", "a.tar#99999999999999999999"], "no row has this image_id"),
        (["--id", "nobody"], "no row has this image_id"),
        (["--id", "a-1", "-k", "0"], "must be 1 or more"),
        (["--id", "a-1", "--columns", "nope"], "--columns nope: there are caption"),
        (["--image", "nowhere.jpg"], "there is no such file"),
    ],
)
def test_wrong_words_are_told(root, argv, says, capsys):
    assert command.main(["search", str(root), *argv]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("is_large", [False, True])
def test_a_condition_holds_while_files_are_gone(tmp_path, monkeypatch, is_large):
    monkeypatch.setattr(index_module, "_SMALL", 0 if is_large else 10_000)
    publish_vectors(tmp_path, {"a": clustered(300, 1), "b": clustered(30, 2)})
    build_index(str(tmp_path), options=BuildOptions(part_rows=100))
    publish_vectors(tmp_path, {"b": clustered(30, 2)})
    index = Index.open(str(tmp_path))
    for _ in range(2):  # the second time with what is kept
        hits = index.search(ROWS["a"][0], 20, "width > 5")
        truth = [row for row in np.argsort(-(clustered(30, 2) @ ROWS["a"][0])) if row % 10 and row > 5][:20]
        assert [hit.image_id for hit in hits] == [f"b-{row}" for row in truth]


def test_a_data_set_without_files_is_told(tmp_path):
    publish_vectors(tmp_path, {"a": clustered(20)})
    build_index(str(tmp_path))
    publish_vectors(tmp_path, {})
    with pytest.raises(ConfigError, match="has no rows any more"):
        Index.open(str(tmp_path))


def test_a_row_without_a_vector_is_told_and_never_a_sample(tmp_path, capsys):
    vectors = list(clustered(40))
    publish_vectors(tmp_path, {"a": vectors[:20], "b": [vectors[20], None, None, vectors[23]]})
    build_index(str(tmp_path), options=BuildOptions(part_rows=20))
    capsys.readouterr()
    assert command.main(["search", str(tmp_path), "--id", "b-1"]) == 2
    told = capsys.readouterr().err
    assert "this row has no vector" in told
    assert told.count("\n") == 1
    index = Index.open(str(tmp_path))
    assert {hit.number for hit in index.sample(100)} == {*range(21), 23}
    assert {hit.number for hit in index.sample(100, "shard = 'b.tar'")} == {20, 23}


def test_own_columns_do_not_hide_what_a_hit_says():
    hit = Hit(0.5, "i", "s", 1, 7, {"score": float("nan"), "all": [1.0, float("inf")], "image_id": "x"})
    assert hit.to_dict() == {
        "score": 0.5,
        "image_id": "i",
        "shard": "s",
        "shard_row": 1,
        "columns": {"score": None, "all": [1.0, None], "image_id": "x"},
    }


def test_a_session_that_was_started_is_stopped_however_often_it_is_asked_for(monkeypatch):
    sessions = []
    monkeypatch.setattr("spark_embed.spark.context.find_session", lambda: next(iter(sessions), None))
    monkeypatch.setattr("spark_embed.spark.machine.check_machine", lambda: None)
    monkeypatch.setattr("spark_embed.spark.session.make_session", lambda _: sessions.append("one") or "one")
    monkeypatch.setattr("spark_embed.spark.session.stop_session", sessions.remove)
    with LazySession(Config(input_dir="/in", output_dir="/out")) as session:
        assert [session(), session()] == ["one", "one"]
    assert not sessions


def test_a_folder_without_an_index_is_told(tmp_path, capsys):
    assert command.main(["search", str(tmp_path), "--id", "a"]) == 2
    assert "'spark-embed index OUTPUT_DIR' makes one" in capsys.readouterr().err
