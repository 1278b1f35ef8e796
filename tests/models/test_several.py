"""Several models in one pass: an image is decoded once, and each model's columns are those of it alone."""

import json
import shutil
from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spark_embed.config import Config, ModelOptions
from spark_embed.errors import ConfigError, ModelError, ResumeError, RowError
from spark_embed.inference.decode import InProcessDecoder
from spark_embed.inference.feed import FeedOptions
from spark_embed.inference.fetch.references import Reference
from spark_embed.inference.preflight.probe import ProbeOptions, probe
from spark_embed.inference.preflight.sample import SampleRow
from spark_embed.inference.recipes import make_recipe
from spark_embed.models import Recipe, load_model
from spark_embed.models.registry import EMBEDDED_MODEL, IMAGE_CLASSIFIER, SEVERAL, find_check, find_class
from spark_embed.output.folder import Output
from spark_embed.output.verify import verify
from spark_embed.pipeline import run
from spark_embed.schema import EMBEDDINGS_NAME, PREDICTIONS_NAME, Field, Result, table_name

from support.feeds import run_feed
from support.model_folders import class_with, write_folder
from support.small_models import LABELS, change_weights, save_classifier, save_model

# It takes the mean colour, but of an image that is white.
NOT_WHITE = class_with(
    encode="""
means = [np.asarray(row["image"]).mean(axis=(0, 1)) for row in batch]
if any(mean.min() > 250 for mean in means):
    raise ValueError("it is white")
return means
"""
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A CLIP, a ViT that classifies, and a folder with code, by name."""
    root = tmp_path_factory.mktemp("models")
    save_model("clip", root / "clip-b.32")
    save_classifier("vit", root / "vit")
    write_folder(root / "colours", NOT_WHITE)
    return {path.name: str(path) for path in root.iterdir()}


def options_of(folders: dict[str, str], names: str, **options) -> ModelOptions:
    directories = ", ".join(folders[name] for name in names.split(","))
    return ModelOptions(**{"dtype": "float32", **options, "model_directory": directories})


def load(options: ModelOptions):
    recipe = make_recipe(options)
    return find_class(recipe.kind)(recipe)


def columns_of(model, images: list[bytes]) -> tuple[dict, dict[str, list[str | None]]]:
    """Return what a task makes of the images: values by column, and codes of errors by result."""
    chunks = list(run_feed(map(Reference, images), model, FeedOptions(batch_size=3)))
    columns = {
        field.name: [value for chunk in chunks for value in chunk.columns[field.name]]
        for result in model.gives
        for field in result.fields
    }
    codes = {
        result.name: [error and error.code for chunk in chunks for error in chunk.errors[result.name]]
        for result in model.gives
    }
    return columns, codes


def png(colour: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_each_column_is_that_of_a_model_alone(folders, photo_bytes, monkeypatch):
    images = [photo_bytes[0], b"no image", png("white"), *photo_bytes[1:4], png("red")]
    several = load(options_of(folders, "clip-b.32,vit,colours", task="auto"))
    opened = []
    open_image = InProcessDecoder.open_image
    monkeypatch.setattr(
        InProcessDecoder, "open_image", lambda self, data: opened.append(data) or open_image(self, data)
    )
    columns, codes = columns_of(several, images)
    assert sorted(opened) == sorted(images)

    n_columns = 0
    for name, called in [("clip-b.32", "clip_b_32"), ("vit", "vit"), ("colours", "colours")]:
        alone = load(options_of(folders, name, task="auto"))
        expected, expected_codes = columns_of(alone, images)
        n_columns += len(expected)
        for column, values in expected.items():
            found = columns[f"{column}_{called}"]
            if isinstance(values[0], str) or column.startswith("top_"):
                assert found == values
            else:
                np.testing.assert_allclose(found, values, atol=1e-6)
        assert {
            f"{result}_{called}": each for result, each in expected_codes.items()
        }.items() <= codes.items()
    assert n_columns == len(columns)
    assert codes["embedding_colours"] == [None, "not_an_image", "model_error", None, None, None, None]
    assert several.codes == {"model_error"}
    assert several.takes.edge is None  # one of them does not say to what it resizes
    assert load(options_of(folders, "clip-b.32,vit", task="auto")).takes.edge == 224


def test_what_one_cannot_prepare_costs_the_others_nothing(folders, photo_bytes, monkeypatch):
    model = load(options_of(folders, "clip-b.32,vit"))
    whole, _ = columns_of(model, photo_bytes[:4])

    def failing(prepare, refused):
        def prepare_some(inputs):
            if inputs.image.mean() in refused:
                raise RowError("out_of_memory", "while resizing")
            return prepare(inputs)

        return prepare_some

    means = [np.asarray(Image.open(BytesIO(data))).mean() for data in photo_bytes[:4]]
    for name, refused in [("clip_b_32", means[:2]), ("vit", means[1:2])]:
        one = model.models[name]
        monkeypatch.setattr(one, "prepare", failing(one.prepare, refused))
    columns, codes = columns_of(model, photo_bytes[:4])
    assert codes["embedding_clip_b_32"] == ["out_of_memory", "out_of_memory", None, None]
    assert codes["embedding_vit"] == [None, "out_of_memory", None, None]
    np.testing.assert_allclose(columns["embedding_clip_b_32"], whole["embedding_clip_b_32"][2:], atol=1e-6)
    expected = [whole["embedding_vit"][row] for row in (0, 2, 3)]
    np.testing.assert_allclose(columns["embedding_vit"], expected, atol=1e-6)


def test_odd_images_have_the_outcomes_that_they_have_with_one_model(folders, material):
    files = sorted(path for path in (material / "hostile").iterdir() if path.suffix != ".csv")[::24]
    images = [path.read_bytes() for path in files]
    _, codes = columns_of(load(options_of(folders, "clip-b.32,vit")), images)
    _, expected = columns_of(load(options_of(folders, "vit")), images)
    assert codes["embedding_vit"] == expected["embedding"]
    assert codes["embedding_clip_b_32"] == expected["embedding"]
    assert 0 < sum(code is not None for code in expected["embedding"]) < len(images)


def test_preflight_compares_each_and_a_precision_is_for_all(folders, photo_bytes, monkeypatch):
    monkeypatch.setattr("spark_embed.models.device._cpu_multiplies_bfloat16", lambda: True)
    recipe = make_recipe(options_of(folders, "clip-b.32,vit,colours", task="auto", dtype="auto"))
    sample = [SampleRow(Reference(data), "a.parquet", row) for row, data in enumerate(photo_bytes[:2])]

    def measure(min_cosine):
        return probe(sample, recipe, FeedOptions(), ProbeOptions(2, min_cosine, 4, None))

    answer = measure(0.99)
    assert answer["parity"]["rejected"] is None
    # The folder with code chooses for itself.
    assert answer["recipe"]["dtype"] == answer["model"]["dtype"] == "bfloat16,bfloat16,float32"
    parity = answer["parity"]
    assert parity["by_result"] == {
        "embedding_clip_b_32": {"min_cosine": parity["min_cosine"]},
        "label_vit": {"n_same_label": 2, "max_score_difference": parity["max_score_difference"]},
    }
    assert 0.99 < parity["min_cosine"] < 1
    # The workers load what preflight has resolved, also after its way as JSON.
    bound = Recipe.from_dict(json.loads(json.dumps(answer["recipe"])))
    assert [model.recipe.dtype for model in load_model(bound)[0].models.values()] == [
        "bfloat16",
        "bfloat16",
        "float32",
    ]

    strict = measure(1.0)
    assert strict["parity"]["rejected"]["dtype"] == "bfloat16,bfloat16,float32"
    assert strict["parity"]["rejected"]["by_result"].keys() == parity["by_result"].keys()
    assert strict["recipe"]["dtype"] == "float32"
    bound = Recipe.from_dict(strict["recipe"])
    model, _ = load_model(bound)
    assert {one.recipe.dtype for one in model.models.values()} == {"float32"}


def test_a_run_counts_resumes_and_verifies_all_of_them(spark, photo_bytes, tmp_path):
    save_model("clip", tmp_path / "clip")
    save_classifier("vit", tmp_path / "vit")
    (tmp_path / "in").mkdir()

    def write_shard(number, images):
        pq.write_table(pa.table({"jpg": pa.array(images, pa.binary())}), tmp_path / f"in/{number}.parquet")

    def run_both(**options):
        given = {"task": "auto", "model_directory": f"{tmp_path}/clip,{tmp_path}/vit/", **options}
        run(spark, Config(input_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), **given))
        tables = [pd.read_parquet(tmp_path / f"out/{name}.parquet") for name in ("embeddings", "errors")]
        return json.loads((tmp_path / "out/metadata.json").read_text()), *tables

    write_shard(0, [*photo_bytes[:3], b"no image"])
    metadata, embeddings, errors = run_both()
    assert errors[["embedding_clip_error", "label_vit_error"]].to_numpy().tolist() == [["not_an_image"] * 2]
    assert embeddings["embedding_clip"].map(len).to_list() == [24] * 3
    assert embeddings["label_vit"].isin(LABELS).all()
    assert metadata["model"]["name"] == "clip + vit"
    assert metadata["model"]["models"]["vit"]["n_labels"] == len(LABELS)
    assert metadata["parity"]["by_result"].keys() == {"embedding_clip", "label_vit"}

    write_shard(1, photo_bytes[3:5])
    metadata, embeddings, errors = run_both()
    assert (metadata["this_run"]["rows"], len(embeddings), len(errors)) == (2, 5, 1)
    report = verify(Output(str(tmp_path / "out")))
    assert report.n_findings == 0, report.text()

    shutil.copytree(tmp_path / "vit", tmp_path / "another/vit")
    change_weights(tmp_path / "another/vit", lambda tensors: tensors["classifier.bias"].add_(1))
    write_shard(2, photo_bytes[:1])
    with pytest.raises(
        ResumeError, match=r"differs from this one in models: vit: weights_sha256: \w{64} -> "
    ):
        run_both(model_directory=f"{tmp_path}/clip,{tmp_path}/another/vit")


@pytest.mark.parametrize(
    ("directories", "options", "text"),
    [
        ("{clip},{copy}", {}, "two models would both be CLIP_b_32 in the names of columns"),
        ("{clip},", {}, "nothing between two commas, or at an end"),
        ("{clip},api.yaml", {}, "api.yaml is a remote API, which needs a run of its own"),
        ("{clip},{vit}", {"revision": "main"}, "--revision main: is for one model"),
        (
            "{clip},{vit}",
            {"task": "embed_text", "text_column": "caption"},
            "several models take images; --task embed_text takes one model",
        ),
    ],
)
def test_what_cannot_be_one_of_several_is_told_before_anything_is_loaded(
    folders, tmp_path, directories, options, text
):
    copy = tmp_path / "CLIP_b.32"
    copy.mkdir()
    given = directories.format(clip=folders["clip-b.32"], vit=folders["vit"], copy=copy)
    with pytest.raises(ConfigError, match=text):
        make_recipe(ModelOptions(model_directory=given, **options))


def test_the_files_of_each_are_looked_at_before_spark_starts(folders, tmp_path):
    recipe = make_recipe(options_of(folders, "clip-b.32,vit,colours"))
    find_check(recipe.kind)(recipe)
    recipe = make_recipe(ModelOptions(model_directory=f"{folders['vit']},{tmp_path}/none"))
    with pytest.raises(ModelError, match=f"--model_directory {tmp_path}/none: there is no such folder"):
        find_check(recipe.kind)(recipe)


def test_two_models_may_not_give_one_column(folders, tmp_path):
    (tmp_path / "id_vit").symlink_to(folders["vit"])
    given = f"{folders['vit']},{tmp_path}/id_vit"
    with pytest.raises(ModelError, match="two of the models give a column label_id_vit"):
        load(ModelOptions(model_directory=given, task="classify"))


def test_a_folder_with_a_comma_in_its_name_is_one_model(tmp_path):
    (tmp_path / "a,b").mkdir()
    options = ModelOptions(model_directory=str(tmp_path / "a,b"), task="classify")
    assert make_recipe(options).kind == IMAGE_CLASSIFIER
    assert make_recipe(ModelOptions(model_directory=f"{tmp_path}/a,c")).kind == SEVERAL


def test_the_embedded_model_can_be_one_of_them(folders):
    recipe = make_recipe(ModelOptions(model_directory=f"{EMBEDDED_MODEL},{folders['vit']}", task="classify"))
    assert dict(recipe.option(EMBEDDED_MODEL))["source"] == EMBEDDED_MODEL
    assert dict(recipe.option("vit"))["kind"] == IMAGE_CLASSIFIER


def test_the_table_is_that_of_embeddings_if_one_of_them_embeds():
    label = Result("label_a", (Field("label_a", "string"),))
    assert table_name((label,)) == PREDICTIONS_NAME
    assert table_name((label, Result("embedding_b", (Field("embedding_b", "vector"),)))) == EMBEDDINGS_NAME
