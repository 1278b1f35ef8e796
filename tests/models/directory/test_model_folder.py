"""A folder with code behind the seam, without Spark: what it gives, and what is said of each fault."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spark_embed.config import ModelOptions
from spark_embed.errors import ImageError, ModelError, RowError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models import Inputs, load_model
from spark_embed.models.directory.model_folder import ModelFolder
from spark_embed.models.directory.recognise import check_folder
from spark_embed.models.registry import IMAGE_EMBEDDER, MODEL_FOLDER
from spark_embed.schema import table_name

from support.model_folders import MEAN_COLOUR, class_with, recipe_of, write_folder

CLASSIFIER = {"type": "classifier", "labels": ["cat", "dog"]}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "model"


def predict(model, images, columns=None):
    return model.predict([model.prepare(Inputs(np.asarray(image), None, columns or {})) for image in images])


def errors_of(prediction) -> dict[int, tuple[str, str]]:
    (failures,) = prediction.failures.values()
    return {row: (error.code, error.detail) for row, error in failures.items()}


def refusal(folder, **fields) -> str:
    with pytest.raises(ModelError) as caught:
        ModelFolder(recipe_of(folder, **fields))
    text = str(caught.value)
    assert text.startswith(f"--model_directory {folder}: ")
    assert "\n" not in text
    return text.removeprefix(f"--model_directory {folder}: ")


def plain(value: int) -> Image.Image:
    return Image.new("RGB", (20, 10), (value, 2 * value, 3 * value))


def test_vectors_are_those_that_encode_returns(folder, photos):
    model = ModelFolder(recipe_of(write_folder(folder), normalize=False))
    prediction = predict(model, photos)  # more than batch_size
    expected = [np.asarray(photo).mean(axis=(0, 1)) for photo in photos]
    np.testing.assert_allclose(prediction.columns["embedding"], expected, rtol=1e-6)
    assert errors_of(prediction) == {}
    about = model.describe()
    assert about["folder_sha256"] == model.recipe.weights_sha256
    assert (about["name"], about["version"], about["embedding_dim"]) == ("mean colour", "1.0", 3)
    assert (about["dtype"], about["normalized"], table_name(model.gives)) == (
        "float32", False, "embeddings.parquet",
    )  # fmt: skip
    normalised = ModelFolder(recipe_of(folder))
    lengths = np.linalg.norm(predict(normalised, photos).columns["embedding"], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


@pytest.mark.parametrize(
    "returned",
    [
        *("{}.tolist()", "{}", "list({})", "tuple({})"),
        *("torch.tensor({}).bfloat16()", "[torch.tensor(vector) for vector in {}]"),
    ],
)
def test_vectors_may_be_lists_arrays_and_tensors(folder, returned):
    means = 'np.stack([np.asarray(row["image"]).mean(axis=(0, 1)) for row in batch])'
    body = f"import torch\nreturn {returned.format(means)}" if "torch" in returned else None
    code = class_with(encode=body or f"return {returned.format(means)}", warmup="pass")
    model = ModelFolder(recipe_of(write_folder(folder, code), normalize=False))
    vectors = predict(model, [plain(10), plain(40)]).columns["embedding"]
    assert vectors.tolist() == [[10, 20, 30], [40, 80, 120]]
    assert vectors.dtype == np.float32


def test_it_is_given_what_its_config_says(folder):
    body = """
for row in batch:
    assert type(row["image"]) is np.ndarray and row["image"].dtype == np.uint8, type(row["image"])
return [[len(row["text"] or "") + 1.0, row["image"].shape[1]] for row in batch]
"""
    metadata = {"type": "embedding", "image": "array", "text_column": "caption"}
    model = ModelFolder(
        recipe_of(write_folder(folder, class_with(encode=body), metadata=metadata), normalize=False)
    )
    assert (model.takes.image, model.takes.columns) == ("pixels", ("caption",))
    for caption, expected in (("a cat", 6), (None, 1), (123, 4)):
        (vector,) = predict(model, [plain(1)], {"caption": caption}).columns["embedding"]
        assert vector.tolist() == [expected, 20]
    with pytest.raises(ImageError):  # also where there is a text
        model.prepare(Inputs(None, ImageError("corrupt"), {"caption": "a cat"}))


def test_what_it_needs_is_set_before_load(folder, tmp_path):
    body = """
import os
assert sorted(os.listdir(self.weights)) == ["numbers.txt"], self.weights
assert self.folder == os.path.dirname(__file__)
assert self.config["metadata"]["own"] == [1]
assert (self.device, self.dtype) == ("cpu", "bfloat16")
self.scale = float(open(self.weights + "/numbers.txt").read())
"""
    for weights in ("below", "../beside", str(tmp_path / "elsewhere")):
        write_folder(
            folder, class_with(load=body), weights=weights, metadata={"type": "embedding", "own": [1]}
        )
        path = folder / weights
        path.mkdir(exist_ok=True)
        hashes = []
        for number in ("2", "3"):
            (path / "numbers.txt").write_text(number)
            model = ModelFolder(recipe_of(folder, dtype="bfloat16", normalize=False))
            assert predict(model, [plain(10)]).columns["embedding"][0, 0] == 10 * int(number)
            hashes.append(model.recipe.weights_sha256)
        assert hashes[0] != hashes[1], weights
        (folder / "below/numbers.txt").unlink(missing_ok=True)


def test_the_hash_is_of_names_and_contents_but_not_of_caches(folder, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)

    def sha256() -> str:
        return ModelFolder(recipe_of(folder)).recipe.weights_sha256

    write_folder(folder)
    first = sha256()
    assert sorted(os.listdir(folder)) == ["config.json", "model.py"]  # nothing is left in it
    for cache in ("__pycache__/model.pyc", ".cache/x", ".gitignore"):
        (folder / cache).parent.mkdir(exist_ok=True)
        (folder / cache).write_text("x")
    assert sha256() == first
    (folder / "a.txt").write_text("bc")
    second = sha256()
    (folder / "a.txt").write_text("b")
    (folder / "b.txt").write_text("c")
    assert len({first, second, sha256()}) == 3
    assert "hashes to" in refusal(folder, weights_sha256=first)


def test_files_beside_it_are_imported_from_it_alone(folder, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as it is unless somebody asks for it
    code = MEAN_COLOUR.replace(
        "import numpy as np", "import numpy as np\nfrom . import helper\nfrom .sub.more import add"
    )
    code = code.replace("self.scale = 1.0", "self.scale = helper.SCALE + add()")
    write_folder(folder, code)
    (folder / "helper.py").write_text("SCALE = 2.0")
    (folder / "sub").mkdir()
    (folder / "sub/more.py").write_text("def add():\n    return 0.0")
    before, modules = list(sys.path), set(sys.modules)

    def scale() -> float:
        return (
            predict(ModelFolder(recipe_of(folder, normalize=False)), [plain(10)]).columns["embedding"][0, 0]
            / 10
        )

    assert scale() == 2
    for path, text in (
        (folder / "helper.py", "SCALE = 5.0"),
        (folder / "sub/more.py", "def add():\n    return 1.0"),
    ):
        times = path.stat()
        path.write_text(text)  # of the same size and time: a .pyc would be taken for it
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert scale() == 6
    assert sys.path == before
    assert {name for name in set(sys.modules) - modules if not name.startswith("model_folder_")} == set()
    write_folder(folder, MEAN_COLOUR.replace("import numpy as np", "import numpy as np\nimport helper"))
    said = "model.py:3: ModuleNotFoundError: No module named 'helper'; it is a file of this folder: from . "
    assert f"{said}import helper" in refusal(folder)


OF_CODE = [  # model.py, and what is said of it
    ("import sys\nsys.exit(0)", r"model\.py cannot be imported: model\.py:2: SystemExit: 0"),
    ("raise KeyError('x')", r"cannot be imported: model\.py:1: KeyError: 'x'"),
    ("import no_such_thing", r"model\.py:1: ModuleNotFoundError: No module named 'no_such_thing'$"),
    ("class ModelImpl:\n  def load(self:\n", r"cannot be imported: model\.py:2: SyntaxError"),
    ("Model = 3", r"model\.py has no class ModelImpl"),
    (
        "class ModelImpl:\n  def load(self): pass",
        r"ModelImpl has no warmup\(\), batch_size\(\), batch_wait_s\(\), encode\(\)$",
    ),
    (
        MEAN_COLOUR + "    def __init__(self, folder): pass",
        r"ModelImpl\(\) cannot be made, without arguments: .*TypeError",
    ),
]
OF_METHODS = [  # the body of one method, and what is said of it
    ("load", "self.nothing.here", r"load\(\) fails: model\.py:25: AttributeError: .*'nothing'"),
    ("load", "import json\njson.loads('{')", r"load\(\) fails: model\.py:26: JSONDecodeError"),
    ("load", 'raise ValueError("a\\nb\\tc" + "x" * 1000)', r"model\.py:25: ValueError: a b cx{10,}$"),
    ("warmup", "1 / 0", r"warmup\(\) fails: model\.py:25: ZeroDivisionError"),
    ("batch_size", "return 0", r"batch_size\(\) fails: .*ValueError: it returned 0"),
    ("batch_wait_s", "return float('nan')", r"batch_wait_s\(\) fails: .*ValueError: it returned nan"),
    (
        "batch_wait_s",
        "return 'soon'",
        r"batch_wait_s\(\) fails: .*ValueError: could not convert string to float: 'soon'",
    ),
    ("encode", "len(batch) and {}['x']", r"at a grey image of 64 x 64: model\.py:25: KeyError: 'x'"),
    ("encode", "return None", r"at a grey image, encode returned NoneType None instead of a list"),
    ("encode", "return {'embedding': []}", r"encode returned a dict instead of a list"),
    ("encode", "yield 1", r"encode returned a generator instead of a list"),
    ("encode", "return [[1.0]] * (len(batch) + 1)", r"encode returned 2 results for 1 rows"),
    ("encode", "return [1.0 for _ in batch]", r"an array of a single number instead of a vector"),
    ("encode", "return [[[1.0, 2.0]] for _ in batch]", r"an array of 1 x 2 instead of a vector"),
    ("encode", "return ['x' for _ in batch]", r"encode returned str 'x' instead of a vector"),
    ("encode", "return [[[1.0], [2.0, 3.0]] for _ in batch]", r"a list, of which no vector can be made"),
    ("encode", "return [object() for _ in batch]", r"returned a object, of which no vector can be made"),
    ("encode", "return [[] for _ in batch]", r"an array of 0 instead of a vector"),
]


@pytest.mark.parametrize(
    ("code", "said"),
    [*OF_CODE, *((class_with(**{method: body}), said) for method, body, said in OF_METHODS)],
)
def test_what_is_wrong_with_the_code_is_one_line_with_its_place(folder, code, said):
    text = refusal(write_folder(folder, code))
    assert re.search(said, text), text
    assert len(text) < 500


def test_one_bad_row_is_one_error_row(folder):
    body = """
for row in batch:
    if np.asarray(row.pop("image"))[0, 0, 0] == 7:
        raise ValueError("seven\\nof them")
return super().encode(batch)
"""
    # What encode takes out of a row is there when it is tried again.
    body = body.replace("super().encode(batch)", "[[1.0, len(batch)] for _ in batch]")
    model = ModelFolder(
        recipe_of(write_folder(folder, class_with(encode=body, warmup="pass")), normalize=False)
    )
    prediction = predict(model, [plain(value) for value in (1, 7, 2, 3, 4, 5, 6, 8, 7)])
    said = ("model_error", "ValueError: seven of them")
    assert errors_of(prediction) == {1: said, 8: said}
    assert prediction.columns["embedding"][:, 1].tolist() == [1, 0, 1, 1, 4, 4, 4, 4, 0]
    assert model.codes == {"model_error"}


ROWS = {
    "NaN": ("[1.0, float('nan')]", "bad_vector", "NaN or infinity"),
    "too large for float32": ("[1.0, 1e300]", "bad_vector", "NaN or infinity"),
    "too long for float32": ("[3e38, 3e38]", "bad_vector", "NaN or infinity"),
    "zeros": ("[0.0, 0.0]", "bad_vector", "only zeros"),
    "ragged": ("[1.0, 2.0, 3.0]", "model_error", "encode returned 3 values; others have 2"),
    "None": ("None", "model_error", "encode returned .*array of a single number|NoneType None"),
    "an object": ("self", "model_error", "encode returned a ModelImpl, of which no vector can be made"),
    "an exit": ("exit(3)", "model_error", "SystemExit: 3"),
    "too few": ("batch.pop()", "model_error", "encode returned"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_what_is_wrong_with_a_row_is_told_by_name(folder, fault):
    value, code, said = ROWS[fault]
    body = (
        f'return [{value} if np.asarray(row["image"])[0, 0, 0] == 7 else [3.0, 4.0] for row in list(batch)]'
    )
    model = ModelFolder(recipe_of(write_folder(folder, class_with(encode=body))))
    prediction = predict(model, [plain(1), plain(7), plain(2)])
    ((row, (found, detail)),) = errors_of(prediction).items()
    assert (row, found) == (1, code)
    assert re.search(said, detail), detail
    np.testing.assert_allclose(prediction.columns["embedding"][[0, 2]], [[0.6, 0.8]] * 2, rtol=1e-6)


def test_a_batch_that_does_not_fit_into_memory_is_made_smaller(folder):
    body = """
if len(batch) > 2:
    raise MemoryError
if np.asarray(batch[0]["image"])[0, 0, 0] == 7:
    raise MemoryError
return super().encode(batch)
""".replace("super().encode(batch)", "[[1.0, 1.0] for _ in batch]")
    model = ModelFolder(recipe_of(write_folder(folder, class_with(encode=body, warmup="pass"))))
    prediction = predict(model, [plain(value) for value in (1, 2, 3, 4, 7)])
    assert [(row, code) for row, (code, _) in errors_of(prediction).items()] == [(4, "out_of_memory")]
    assert prediction.batch_limit


def test_a_gpu_that_is_lost_makes_no_error_rows(folder):
    body = """
if np.asarray(batch[0]["image"])[0, 0, 0] == 7:
    raise RuntimeError("CUDA error: device-side assert")
return [[1.0] for _ in batch]
"""
    model = ModelFolder(recipe_of(write_folder(folder, class_with(encode=body, warmup="pass"))))
    with pytest.raises(RuntimeError, match="CUDA error"):
        predict(model, [plain(7)])


CAT, DOG = '{"label": "cat", "score": 0.75}', '{"label": "dog", "score": np.float32(0.25), "label_id": 9}'


def classify(folder, value, metadata=CLASSIFIER):
    body = f'return [{value} if np.asarray(row["image"])[0, 0, 0] == 7 else {CAT} for row in batch]'
    model = ModelFolder(recipe_of(write_folder(folder, class_with(encode=body), metadata=metadata)))
    prediction = predict(model, [plain(7), plain(1)])
    assert table_name(model.gives) == "predictions.parquet"
    columns = {name: values[0] for name, values in prediction.columns.items()}
    return columns, errors_of(prediction)


def test_labels_come_with_number_and_score(folder):
    columns, errors = classify(folder, f"[{CAT}, {DOG}]")
    assert errors == {}
    assert columns == {
        "label": "cat",
        "label_id": 0,
        "score": 0.75,
        "top_labels": ["cat", "dog"],
        "top_scores": [0.75, 0.25],
    }
    columns, _ = classify(folder, DOG)
    assert (columns["label"], columns["label_id"], columns["top_scores"]) == ("dog", 9, [0.25])
    columns, _ = classify(folder, CAT, {"type": "classifier"})
    assert columns["label_id"] is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"[{DOG}, {CAT}]", "scores that are not best first"),
        ("[]", "a list instead of a label and its score"),
        ("'cat'", "str 'cat' instead of a label"),
        ("[1.0, 2.0]", "float 1.0 instead of a label"),
        ("{'label': 3, 'score': 1.0}", "a label that is no text: int 3"),
        (r"{'label': '\ud800', 'score': 1.0}", r"a label with half a character (a surrogate): str '\ud800'"),
        ("{'label': 'cat'}", "a score that is no number: NoneType None"),
        ("{'label': 'cat', 'score': float('nan')}", "a score that is nan"),
        ("{'label': 'cat', 'score': 1, 'label_id': 'x'}", "a label_id that is no number: str 'x'"),
        ("{'label': 'cat', 'score': 1, 'label_id': 1 << 40}", "a label_id that is no number"),
    ],
)
def test_what_is_wrong_with_labels_is_told_by_name(folder, value, said):
    _, errors = classify(folder, value)
    assert list(errors) == [0]
    assert errors[0][0] == "model_error"
    assert f"encode returned {said}" in errors[0][1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no config.json; there is no class"),
        ("[1]", "config.json is not an object"),
        ("{", "config.json cannot be read"),
        ("[" * 100_000, "config.json cannot be read: maximum recursion"),
        (" " * (1 << 20) + "{}", "config.json is larger than 1048576 bytes"),
        (
            '{"metadata": {"type": "song"}, "name": ""}',
            "config.json: name .*at least 1 character; version is missing; batch_size is missing; "
            "batch_wait_s is missing; metadata.type must be 'embedding' or 'classifier'",
        ),
        (
            '{"name": "a", "version": 1, "batch_size": 0, "batch_wait_s": -1, "metadata": 3}',
            "config.json: batch_size must be greater than or equal to 1; batch_wait_s .*; metadata must",
        ),
        ("\xff\xfe", "config.json cannot be read|config.json .*decode"),
    ],
)
def test_a_config_that_cannot_be_used_is_told_before_spark_starts(folder, text, said):
    write_folder(folder, "class Other: pass" if text is None else MEAN_COLOUR)
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_bytes(text.encode("latin1"))
    recipe = make_recipe(ModelOptions(model_directory=str(folder)))
    assert recipe.kind == MODEL_FOLDER
    with pytest.raises(ModelError) as caught:
        check_folder(recipe)
    if text is None:
        assert "there is no config.json; model.py has no class ModelImpl" in str(caught.value)
    else:
        assert re.search(said, str(caught.value)), str(caught.value)
        assert re.search(said, refusal(folder))
    assert "\n" not in str(caught.value)


def test_the_driver_looks_and_runs_nothing(folder, log):
    def check(code):
        write_folder(folder, code)
        with pytest.raises(ModelError) as caught:
            check_folder(make_recipe(ModelOptions(model_directory=str(folder))))
        return str(caught.value)

    assert "model.py has no class ModelImpl" in check("raise SystemExit")
    assert "model.py:2 is no Python" in check("x = 1\nx x")
    assert "model.py is no Python" in check("x = '\0'")
    write_folder(folder, "raise SystemExit\nclass ModelImpl: ...")
    check_folder(make_recipe(ModelOptions(model_directory=str(folder))))
    lines = [record.getMessage() for record in log.records if "own code" in record.getMessage()]
    assert lines == [
        f"model: runs the folder's own code, {folder}/model.py"
    ]  # once, however often it is asked
    (folder / "model.py").unlink()
    with pytest.raises(ModelError, match=r"there is no model\.py"):
        check_folder(make_recipe(ModelOptions(model_directory=str(folder))))
    write_folder(folder)
    recipe = make_recipe(ModelOptions(model_directory=str(folder), compile=True))
    for look in (check_folder, ModelFolder):
        with pytest.raises(ModelError, match="--compile true: not for a folder with code"):
            look(recipe)


@pytest.mark.parametrize(
    ("config", "code", "kind"),
    [
        ({}, MEAN_COLOUR, MODEL_FOLDER),
        ({}, None, MODEL_FOLDER),  # forgotten
        ({"metadata": None}, MEAN_COLOUR, MODEL_FOLDER),
        ({"metadata": None}, None, IMAGE_EMBEDDER),
        ({"model_type": "clip"}, MEAN_COLOUR, IMAGE_EMBEDDER),  # of transformers, with a file of this name
        ({"architecture": "resnet18"}, MEAN_COLOUR, IMAGE_EMBEDDER),
    ],
)
def test_it_is_known_by_its_files(folder, config, code, kind):
    write_folder(folder, code, **config)
    assert make_recipe(ModelOptions(model_directory=str(folder))).kind == kind


def test_changed_code_is_loaded_anew_in_the_same_worker(folder):
    def first_value() -> tuple[float, bool]:
        recipe = make_recipe(ModelOptions(model_directory=str(write_folder(folder, code)), normalize=False))
        model, is_loaded = load_model(recipe)
        return predict(model, [plain(10)]).columns["embedding"][0, 0], is_loaded

    code = MEAN_COLOUR
    assert first_value()[0] == 10
    recipe = make_recipe(ModelOptions(model_directory=str(folder), normalize=False))
    assert not load_model(recipe)[1]
    code = MEAN_COLOUR.replace("1.0", "2.0")
    assert first_value() == (20, True)


def test_files_that_change_while_they_are_loaded_are_told(folder):
    body = 'self.scale = 1\nwith open(self.folder + "/model.py", "a") as file:\n    file.write("#")'
    assert "its files changed while they were loaded" in refusal(write_folder(folder, class_with(load=body)))


def test_an_error_is_a_plain_row_error(folder):
    # What it was raised from may hold a batch of images.
    body = 'if np.asarray(batch[0]["image"])[0, 0, 0] == 7:\n    raise ValueError("x")\nreturn [[1.0]]'
    model = ModelFolder(recipe_of(write_folder(folder, class_with(encode=body, warmup="pass"))))
    (error,) = predict(model, [plain(7)]).failures["embedding"].values()
    assert type(error) is RowError
    assert error.__traceback__ is None
    assert error.detail == "ValueError: x"


@pytest.mark.parametrize(("image", "change"), [("array", "image[:] = 0"), ("pil", "image.thumbnail((1, 1))")])
def test_what_a_failed_batch_did_to_an_image_is_not_there_when_it_is_tried_again(folder, image, change):
    body = f"""
means = [[np.asarray(row["image"]).mean(), np.asarray(row["image"]).shape[1]] for row in batch]
for row in batch:
    image = row["image"]
    {change}
if len(batch) > 1:
    raise ValueError("one by one")
return means
"""
    code = class_with(encode=body, warmup="pass")
    metadata = {"type": "embedding", "image": image}
    model = ModelFolder(recipe_of(write_folder(folder, code, metadata=metadata), normalize=False))
    prediction = predict(model, [plain(10), plain(20)])
    assert prediction.columns["embedding"].tolist() == [[20, 20], [40, 20]]
    assert errors_of(prediction) == {}
