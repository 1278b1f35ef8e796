"""Every format gives what the model gives by hand, told by its content; a pickle is refused, not loaded."""

import io
import json
import pickle
import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest
import torch

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError, ModelError, RowError
from spark_embed.models import Inputs, Recipe, load_model
from spark_embed.models.registry import TABULAR, find_check, find_kind, find_options, find_source

from support.tabular import (
    BIAS,
    GOOD,
    SIGNATURE,
    WEIGHTS,
    linear,
    score_of,
    write_config,
    write_export,
    write_onnx,
    write_safetensors,
    write_state,
    write_torchscript,
    write_zipmap,
)

FORMATS = {
    "torchscript": write_torchscript,
    "torch_export": write_export,
    "state_dict": write_state,
    "safetensors": write_safetensors,
    "onnx": write_onnx,
}


def check(options):
    """Return the recipe, once what the driver looks at is as it should be."""
    recipe = Recipe(
        source=find_source(options.model_directory or ""),
        kind=find_kind(options),
        options=find_options(TABULAR, options),
        dtype=options.dtype,
        compile_rows=8 if options.compile else None,
        trust_remote_code=options.trust_remote_code,
    )
    find_check(recipe.kind)(recipe)
    return recipe


def load(path, **options):
    return load_model(check(ModelOptions(task="predict", model_directory=str(path), **options)))[0]


def close(score):
    return pytest.approx(score, abs=1e-6)


def rows_of(n_rows):
    rows = [{**GOOD, "age": n, "region": 1 + n % 4, "income": float(n * 7)} for n in range(n_rows)]
    return rows, {name: pa.array([row[name] for row in rows]) for name in GOOD}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_told_by_its_content_and_gives_what_the_model_gives(tmp_path, kind):
    folder = write_config(tmp_path / "model", weights="it.pt")
    FORMATS[kind](folder / "it.pt")
    trust = {"trust_remote_code": kind == "torch_export"}
    model = load(folder, **trust)
    assert model.describe()["format"] == kind
    rows, columns = rows_of(11)
    found = model.predict_table(columns, 11, 4).columns
    wanted = [score_of(row) for row in rows]
    assert found["prediction_score"].to_pylist() == pytest.approx(wanted, abs=1e-6)
    assert found["prediction_class"].to_pylist() == [int(score >= 0.5) for score in wanted]
    one = model.predict([model.prepare(Inputs(columns=row)) for row in rows])
    assert one.columns["prediction_score"] == pytest.approx(wanted, abs=1e-6)
    assert load(folder / "it.pt", **trust).describe() == {**model.describe(), "source": str(folder / "it.pt")}


class Whole(torch.nn.Module):
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: torch.save(Whole(), path), ["a whole pickled module", "convert it once", "traced.pt"]),
        (lambda path: torch.save(linear(), path), ["a whole pickled module", "convert it once"]),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), ["is a pickle", "skl2onnx"]),
        (
            lambda path: torch.save(Whole(), path, _use_new_zipfile_serialization=False),
            ["is a pickle", "convert it once"],
        ),
        (lambda path: torch.save([1, 2], path), ["holds list and no state dict"]),
        (lambda path: torch.save({"weight": torch.zeros(1)}, path), ["cannot be loaded as state_dict"]),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut off"), ["is no whole file"]),
        (lambda path: path.write_text("hello"), ["is no model that is read here"]),
    ],
)
def test_what_is_no_model_is_refused_and_nothing_of_it_runs(tmp_path, capsys, write, said):
    folder = write_config(tmp_path / "model")
    write(folder / "model.pt")
    with pytest.raises(ModelError) as told:
        load(folder)
    assert all(one in str(told.value) for one in said), told.value
    assert "this ran" not in capsys.readouterr().out


def entry_of(path, name, data):
    """Write an exported model, and put something into its archive, or something else in its place."""
    write_export(path)
    with zipfile.ZipFile(path) as archive:
        entries = {one: archive.read(one) for one in archive.namelist()}
    folder = next(iter(entries)).partition("/")[0]
    change = data(entries.get(f"{folder}/{name}", b"")) if callable(data) else data
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in {**entries, f"{folder}/{name}": change}.items():
            archive.writestr(one, content)


def pickled(obj):
    file = io.BytesIO()
    torch.save(obj, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("data/sample_inputs/model.pt", pickled(Whole()), "holds a pickle"),
        ("data/aotinductor/model/code.so", b"\x7fELF", "data/aotinductor/model/code.so"),
        ("data/constants/opaque_obj_0", pickle.dumps(Whole()), "opaque_obj_0"),
        (
            "data/weights/model_weights_config.json",
            lambda old: old.replace(b'"use_pickle": false', b'"use_pickle": true'),
            "pickled tensors",
        ),
        (
            "data/constants/model_constants_config.json",
            b'{"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": false}}}',
            "pickled tensors",
        ),
    ],
)
def test_an_exported_model_with_more_than_graph_and_tensors_is_refused(tmp_path, capsys, name, data, said):
    folder = write_config(tmp_path / "model")
    entry_of(folder / "model.pt2", name, data)
    with pytest.raises(ModelError, match=re.escape(said)):
        load(folder, trust_remote_code=True)
    assert "this ran" not in capsys.readouterr().out


def test_an_exported_model_is_loaded_only_where_it_is_trusted(tmp_path, monkeypatch):
    folder = write_config(tmp_path / "model")
    write_export(folder / "model.pt2")
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("it was loaded"))
    with pytest.raises(ModelError, match="can run code: --trust_remote_code where you trust it, or save it"):
        load(folder)


def binary(tmp_path, activation, weights, bias):
    """A model of two classes: of one output, or of two."""
    folder = write_config(
        tmp_path / "model",
        architecture={"name": "mlp", "hidden": [], "n_outputs": len(bias)},
        signature={**SIGNATURE, "output": {"kind": "binary", "activation": activation}},
    )
    state = {"0.mean": torch.zeros(5), "0.std": torch.ones(5)}
    state |= {"1.weight": torch.tensor(weights), "1.bias": torch.tensor(bias)}
    torch.save(state, folder / "model.pt")
    return folder


@pytest.mark.parametrize(
    ("activation", "wanted"),
    [("sigmoid", 1 / (1 + np.exp(-2))), ("softmax", 1 / (1 + np.exp(-3)))],
)
def test_of_a_column_for_each_of_two_classes_the_second_is_the_score(tmp_path, activation, wanted):
    folder = binary(tmp_path, activation, [[0.0] * 5] * 2, [-1.0, 2.0])
    found = load(folder).predict_table(rows_of(2)[1], 2, 8)
    assert found.columns["prediction_score"].to_pylist() == pytest.approx([wanted] * 2)


def test_a_score_of_two_classes_outside_0_to_1_is_an_error_row(tmp_path):
    folder = binary(tmp_path, "none", [[0.5, 0.0, 0.0, 0.0, 0.0]], [-0.5])
    found = load(folder).predict_table(rows_of(5)[1], 5, 8)
    assert {row: error.code for row, error in found.errors.items()} == {0: "bad_score", 4: "bad_score"}
    assert "gave 1.5, and a score of two classes is from 0 to 1" in found.errors[4].detail
    assert "need an activation" in found.errors[4].detail
    assert found.columns["prediction_score"].to_pylist() == [None, 0.0, 0.5, 1.0, None]
    with pytest.raises(ModelError, match="the softmax is always 1"):
        load(binary(tmp_path, "softmax", [[0.0] * 5], [0.0]))


def test_another_architecture_is_another_model(tmp_path):
    architecture = {"name": "mlp", "hidden": [5], "n_outputs": 1}
    state = {"0.mean": torch.zeros(5), "0.std": torch.ones(5), "1.weight": torch.eye(5)}
    state |= {"1.bias": torch.zeros(5), "3.weight": torch.ones(1, 5), "3.bias": torch.zeros(1)}
    told = []
    for activation in ("relu", "tanh"):
        folder = write_config(tmp_path / "model", architecture={**architecture, "activation": activation})
        torch.save(state, folder / "model.pt")
        told.append(load(folder).describe())
    assert told[0]["weights_sha256"] == told[1]["weights_sha256"]
    assert told[0]["architecture"] != told[1]["architecture"]


def test_a_row_that_is_none_is_not_predicted(tmp_path):
    folder = write_config(
        tmp_path / "model",
        signature={**SIGNATURE, "inputs": [{**one, "required": False} for one in SIGNATURE["inputs"]]},
    )
    write_state(folder / "model.pt")
    rows, columns = rows_of(3)
    columns = {name: pa.array([*values.to_pylist()[:2], None]) for name, values in columns.items()}
    found = load(folder).predict_table(columns, 3, 8, pa.array([None, "wrong_field_count: why", None]))
    assert {row: error.code for row, error in found.errors.items()} == {
        1: "wrong_field_count",
        2: "bad_score",  # NaN in, NaN out
    }
    assert found.columns["prediction_score"].to_pylist() == [close(score_of(rows[0])), None, None]


def test_onnx_with_weights_in_a_file_of_their_own_is_refused(tmp_path, monkeypatch):
    folder = write_config(tmp_path / "model")
    write_onnx(folder / "model.onnx", external="weights.bin")
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError, match=r"keeps weights in files beside it.*save it as one file"):
        load(folder)


@pytest.mark.parametrize(
    ("classes", "called", "score"),
    [((0, 1), (0, 1), 0.25), ((1, 0), (0, 1), 0.75), ((0, 1), (1, 0), 0.75), ((3, 4), (0, 1), None)],
)
def test_the_scores_of_a_zipmap_go_by_their_classes(tmp_path, classes, called, score):
    output = {"kind": "binary", "classes": called}
    folder = write_config(tmp_path / "model", signature={**SIGNATURE, "output": output})
    write_zipmap(folder / "model.onnx", classes)
    if score is None:
        with pytest.raises(ModelError, match=r"has the classes \[3, 4\], and its signature says \[0, 1\]"):
            load(folder)
        return
    found = load(folder).predict_table(rows_of(2)[1], 2, 8).columns["prediction_score"]
    assert found.to_pylist() == [score] * 2


def test_rows_that_cannot_be_predicted_are_errors_between_the_others(tmp_path):
    folder = write_config(tmp_path / "model")
    write_state(folder / "model.pt")
    rows, columns = rows_of(5)
    columns["age"] = pa.array(["0", "x", "2", None, "4"])
    found = load(folder).predict_table(columns, 5, 2)
    assert {row: error.code for row, error in found.errors.items()} == {1: "wrong_type", 3: "missing_value"}
    wanted = [None if row in (1, 3) else pytest.approx(score_of(rows[row]), abs=1e-6) for row in range(5)]
    assert found.columns["prediction_score"].to_pylist() == wanted
    assert found.columns["timestamp"].null_count == 2
    with pytest.raises(RowError, match="wrong_type"):
        load(folder).prepare(Inputs(columns={**GOOD, "age": "x"}))


def test_a_score_that_is_nan_is_an_error_row(tmp_path):
    folder = write_config(tmp_path / "model")
    state = {"0.mean": torch.zeros(5), "0.std": torch.ones(5)}
    state |= {"1.weight": torch.tensor([[1e38, 0, 0, 0, 0]]), "1.bias": torch.tensor([0.0])}
    torch.save(state, folder / "model.pt")
    config = json.loads((folder / "config.json").read_text())
    config["signature"]["output"] = {"kind": "regression"}
    (folder / "config.json").write_text(json.dumps(config))
    _, columns = rows_of(3)
    columns["age"] = pa.array([1, 1000, 0])
    found = load(folder).predict_table(columns, 3, 8)
    assert {row: error.code for row, error in found.errors.items()} == {1: "bad_score"}
    assert found.columns["prediction_score"].to_pylist() == [pytest.approx(1e38), None, 0.0]
    assert "prediction_class" not in found.columns


def test_several_classes_have_all_their_scores(tmp_path):
    output = {"kind": "multiclass", "activation": "softmax", "classes": ["low", "mid", "high"]}
    changes = {"signature": {**SIGNATURE, "output": output}}
    folder = write_config(
        tmp_path / "m", architecture={"name": "mlp", "hidden": [], "n_outputs": 3}, **changes
    )
    weights = torch.tensor([WEIGHTS, [0.1] * 5, [-w for w in WEIGHTS]])
    bias = torch.tensor([BIAS, 0.0, 0.5])
    torch.save(
        {"0.mean": torch.zeros(5), "0.std": torch.ones(5), "1.weight": weights, "1.bias": bias},
        folder / "model.pt",
    )
    _, columns = rows_of(6)
    columns["income"] = pa.array([0.0, 1.0, 2.0, None, 4.0, 5.0])
    found = load(folder).predict_table(columns, 6, 4)
    matrix = np.array([[n, n, 1, n % 4, 1] for n in (0, 1, 2, 4, 5)], np.float32)
    scores = torch.softmax(torch.from_numpy(matrix) @ weights.T + bias, 1).numpy()
    lists = found.columns["scores"].to_pylist()
    assert lists[3] is None
    assert np.array([one for one in lists if one]) == pytest.approx(scores, abs=1e-6)
    best = [output["classes"][place] for place in scores.argmax(1)]
    assert [one for one in found.columns["prediction_class"].to_pylist() if one] == best
    with pytest.raises(ConfigError, match="--threshold: is for two classes"):
        load(folder, threshold=0.3)


def test_the_threshold_is_the_flags_then_the_models(tmp_path):
    output = {**SIGNATURE["output"], "threshold": 0.9}
    folder = write_config(tmp_path / "model", signature={**SIGNATURE, "output": output})
    write_state(folder / "model.pt")
    rows, columns = rows_of(9)
    scores = [score_of(row) for row in rows]
    by_model, by_flag = (load(folder, **flag) for flag in ({}, {"threshold": 0.2}))
    for model, threshold in ((by_model, 0.9), (by_flag, 0.2)):
        found = model.predict_table(columns, 9, 4).columns["prediction_class"].to_pylist()
        assert found == [int(score >= threshold) for score in scores]
    assert by_model.describe() != by_flag.describe()  # a run with one does not go on with the other's


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model_directory": None}, "--model_directory must name one model"),
        ({"model_directory": "nowhere"}, "there is no such folder or file"),
        ({"dtype": "bfloat16"}, "leave it out"),
        ({"compile": True}, "--compile"),
        ({"top_k": 3}, "--top_k: is for --task classify"),
    ],
)
def test_options_that_do_not_go_with_a_table_are_told(tmp_path, given, said):
    folder = write_config(tmp_path / "model")
    write_state(folder / "model.pt")
    options = ModelOptions(**{"task": "predict", "model_directory": str(folder), **given})
    with pytest.raises((ConfigError, ModelError), match=said):
        check(options)
