"""The policy for values: what is a number, a category, a truth; what is an error, and of which code."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_embed.errors import ModelError
from spark_embed.models.tabular.features import read_features
from spark_embed.models.tabular.signature import Feature, Signature, read_signature

from support.tabular import SIGNATURE


def read(values, feature, **more):
    signature = Signature((feature,), **more)
    array = values if isinstance(values, pa.Array) else pa.array(values)
    found = read_features({feature.name: array}, signature, len(array))
    codes = [found.errors[row].code if row in found.errors else None for row in range(len(array))]
    return found.matrix[:, 0].tolist(), codes, found


INTEGER, NUMBER, TRUTH = Feature("x", "integer"), Feature("x", "number"), Feature("x", "boolean")
PLACES, NAMES = Feature("x", "category", (7, 3, 5)), Feature("x", "category", ("a", "b c"))

MISSING, WRONG, INFINITE, UNKNOWN = "missing_value", "wrong_type", "not_finite", "unknown_category"


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (INTEGER, {"5": 5, " 5\t": 5, "+5": 5, "-3": -3, "5.0": 5, "1e2": 100}),
        (INTEGER, {"": MISSING, "  ": MISSING, None: MISSING, "x": WRONG, "1.5": WRONG, "1,5": WRONG}),
        (INTEGER, {"nan": INFINITE, "-Infinity": INFINITE, "1e400": INFINITE, "1_000": WRONG, "0x10": WRONG}),
        (INTEGER, {"NULL": WRONG, "1e20": WRONG, "--1": WRONG, "true": WRONG, "5 5": WRONG}),
        (NUMBER, {"1.5": 1.5, ".5": 0.5, "5.": 5, "-1e-3": np.float32(-1e-3), "1e39": INFINITE}),
        (TRUTH, {"true": 1, "FALSE": 0, "1": 1, "0": 0, "2": WRONG, "yes": WRONG, "": MISSING}),
        (PLACES, {"7": 0, "3": 1, "5.0": 2, "4": UNKNOWN, "x": WRONG, "": MISSING, "nan": INFINITE}),
        (NAMES, {"a": 0, "b c": 1, "A": UNKNOWN, " a": UNKNOWN, "": MISSING, None: MISSING}),
    ],
)
def test_texts(feature, values):
    numbers, codes, _ = read(pa.array(list(values), pa.string()), feature)
    for text, number, code, wanted in zip(values, numbers, codes, values.values(), strict=True):
        assert (code or number) == wanted, text


@pytest.mark.parametrize(
    ("feature", "values", "wanted"),
    [
        (INTEGER, pa.array([1, None, 1 << 60], pa.int64()), [1, MISSING, WRONG]),
        (INTEGER, pa.array([(1 << 53) - 1, (1 << 53) + 1]), [float(1 << 53), WRONG]),
        (INTEGER, pa.array([1.0, 1.5, math.nan, math.inf, None]), [1, WRONG, INFINITE, INFINITE, MISSING]),
        (NUMBER, pa.array([True, False, None]), [1, 0, MISSING]),
        (NUMBER, pa.array([1, 2]).cast(pa.decimal128(21, 2)), [1, 2]),
        (NUMBER, pa.array([[1], None]), [WRONG, MISSING]),
        (NUMBER, pa.array(["2", None]).dictionary_encode(), [2, MISSING]),
        (NUMBER, pa.nulls(2), [MISSING, MISSING]),
        (TRUTH, pa.array([0, 1, 2, None], pa.int8()), [0, 1, WRONG, MISSING]),
        (PLACES, pa.array([3, 4, None], pa.int32()), [1, UNKNOWN, MISSING]),
        (PLACES, pa.array([3.5, 5.0]), [WRONG, 2]),
        (NAMES, pa.array([1, None]), [WRONG, MISSING]),
    ],
)
def test_columns_of_other_types(feature, values, wanted):
    numbers, codes, _ = read(values, feature)
    assert [code or number for number, code in zip(numbers, codes, strict=True)] == wanted


def test_what_is_not_required_is_nan():
    numbers, codes, _ = read(["", "2", "x"], Feature("x", "number", required=False))
    assert math.isnan(numbers[0])
    assert (numbers[1], codes) == (2, [None, None, WRONG])


def test_the_first_feature_at_fault_is_told_and_columns_go_by_name():
    signature = read_signature({"signature": SIGNATURE}, "here")
    columns = {
        "plan": pa.array(["gold", "x", "free"]),
        "extra": pa.array([1, 2, 3]),
        "region": pa.array([4, 9, 1]),
        "age": pa.array(["30", "z", "31"]),
        "is_premium": pa.array(["1", "0", "true"]),
    }
    found = read_features({**columns, "income": pa.array([1.5, 2.5, None])}, signature, 3)
    assert found.matrix[0].tolist() == [30, 1.5, 1, 3, 1]
    assert {row: str(error) for row, error in found.errors.items()} == {
        1: "wrong_type: age: 'z' is no integer",
        2: "missing_value: income is empty",
    }
    assert read_features(columns, signature, 3).errors[0].detail == "income is empty"  # no such column


@given(st.lists(st.one_of(st.floats(width=64), st.integers(), st.text(max_size=6), st.none())))
def test_any_text_is_a_number_as_python_has_it_or_an_error(values):
    texts = [None if value is None else str(value) for value in values]
    numbers, codes, _ = read(pa.array(texts, pa.string()), NUMBER, dtype="float64")
    for text, number, code in zip(texts, numbers, codes, strict=True):
        if code is None:
            assert number == float(text)
            assert math.isfinite(number)
        elif code == MISSING:
            assert text is None or not text.strip(" \t\r\n")
        elif code == INFINITE:
            assert not math.isfinite(float(text))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": []}, "needs a signature"),
        ({"inputs": [{"name": "a", "type": "date"}]}, "type of input 'a': 'date' must be one of integer"),
        ({"inputs": [{"name": "a", "type": "category"}]}, "lists its categories"),
        (
            {"inputs": [{"name": "a", "type": "category", "categories": [1, "x"]}]},
            "all texts or all integers",
        ),
        ({"inputs": [{"name": "a", "type": "long"}] * 2}, "two inputs of the signature are called 'a'"),
        ({"output": {"kind": "multiclass", "classes": [1]}}, "needs its classes"),
        ({"output": {"classes": [0, 1 << 31]}}, "class 2147483648 must be below 2**31"),
        ({"output": {"threshold": 2}}, "threshold 2 must be a number from 0 to 1"),
        ({"output": {"kinds": 2}}, "['kinds'] of the signature"),
    ],
)
def test_a_wrong_signature_is_told(changes, said):
    with pytest.raises(ModelError) as told:
        read_signature({"signature": {**SIGNATURE, **changes}}, "config.json")
    assert said in str(told.value)
