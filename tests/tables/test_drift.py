"""Drift: the figures are those of their formulas, and what has moved is found."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats

from spark_embed.cli.main import main
from spark_embed.errors import ConfigError
from spark_embed.tables import drift
from spark_embed.tables.drift import compare, find_drift, ks, psi

from support.customers import customers


def test_psi_is_that_of_its_formula():
    # Shares 0.2, 0.5, 0.3 and 0.1, 0.6, 0.3: by hand.
    expected = (0.1 - 0.2) * np.log(0.1 / 0.2) + (0.6 - 0.5) * np.log(0.6 / 0.5)
    assert psi(np.array([20, 50, 30]), np.array([100, 600, 300])) == pytest.approx(expected)
    assert psi(np.array([5, 5]), np.array([50, 50])) == 0
    assert psi(np.array([10, 0]), np.array([5, 5])) == pytest.approx(
        (0.5 - 1) * np.log(0.5) + (0.5 - 1e-4) * np.log(0.5 / 1e-4)
    )


def test_ks_is_that_of_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=500), random.normal(0.3, 2, 700).round(1)
    assert ks(a, b) == pytest.approx(scipy.stats.ks_2samp(a, b).statistic)


def test_numbers_are_binned_at_the_references_deciles():
    random = np.random.default_rng(0)
    a, b = random.normal(size=20_000), random.normal(0.5, 1, 20_000)
    cuts = [-np.inf, *np.quantile(a, np.arange(1, 10) / 10), np.inf]
    shares = [np.histogram(values, cuts)[0] / len(values) for values in (a, b)]
    found = compare("x", pa.array(a), pa.array(b))
    assert found.psi == pytest.approx(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    assert found.ks == pytest.approx(scipy.stats.ks_2samp(a, b).statistic)


@pytest.mark.parametrize(
    ("reference", "current", "new"),
    [
        (["a", "b"] * 50, ["a", "b", "c", "d"] * 25, ("c", "d")),
        ([1, 2, 3, 4] * 25, [1, 2, 3, 9] * 25, ("9",)),
        (["1", "2"] * 50, [1.0, 2.0] * 50, ()),
        ([True, False] * 50, ["true", "false"] * 50, ()),
        ([10_000_001, 10_000_002] * 50, [10_000_003, 10_000_004] * 50, ("10000003", "10000004")),
        (["1", "2"] * 50, ["1", "2", "1", "other"] * 25, ("other",)),
        ([0.1, -0.0] * 50, ["0.1", "0"] * 50, ()),
    ],
)
def test_few_kinds_are_compared_by_value(reference, current, new):
    found = compare("x", pa.array(reference), pa.array(current))
    assert (found.new, found.ks) == (new, None)
    assert (found.psi > 0.25) == bool(new)


def test_what_is_missing_is_a_bin_of_its_own():
    values = np.random.default_rng(0).normal(size=10_000)
    lost = pd.Series(values).where(np.arange(10_000) % 4 > 0)
    expected = (0.25 - 1e-4) * np.log(0.25 / 1e-4) + (0.75 - 1) * np.log(0.75)
    for reference, current in ((values, lost), ((values > 0) * 1, (lost > 0).where(lost.notna(), None))):
        found = compare("x", pa.array(reference), pa.array(current))
        assert found.psi == pytest.approx(expected, rel=0.01)
        assert found.new == ()


@pytest.fixture
def tables(tmp_path) -> tuple[str, str]:
    """The paths of a table of last month and of one of today, in which age and region have moved."""
    before, now = customers(4000), customers(3000, seed=1)
    now["age"] = now.age // 2 + 40
    now["region"] = np.where(np.arange(3000) % 3 == 0, 7, now.region)
    for table in (before, now):
        table["remark"] = "customer " + table.user_id
    before.to_csv(tmp_path / "before.csv", index=False)
    now.drop(columns="num_returns").to_parquet(tmp_path / "now.parquet")
    return str(tmp_path / "before.csv"), str(tmp_path / "now.parquet")


def test_the_command_names_what_has_moved(tables, capsys):
    assert main(["drift", *tables, "--id_column", "user_id", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["drifted"], found["rows"]) == (["age", "region"], [4000, 3000])
    by_name = {column["column"]: column for column in found["columns"]}
    assert "user_id" not in by_name
    assert by_name["region"]["new"] == ["7"]
    assert by_name["num_returns"]["why_not"] == "CURRENT lacks it"
    assert found["lost"] == ["num_returns"]
    assert by_name["income"]["psi"] < 0.1

    assert main(["drift", *tables, "--id_column", "user_id", "--on_drift", "fail"]) == 7
    said = capsys.readouterr()
    assert said.out.endswith("2 columns have drifted, by a PSI above 0.25: age, region\n")
    assert said.err.strip().endswith(
        "age, region: a PSI above --threshold 0.25; num_returns: lost; region: new: 7"
    )
    assert "remark: not compared: text of more than 1,000 kinds" in said.out


@pytest.mark.parametrize(
    ("current", "said"),
    [
        ({"a": [1, 2], "b": ["x", "y"], "more": [1, 1]}, ""),
        ({"more": [1, 2], "b": ["x", "y"]}, "a: lost"),
        ({"a": [1, 2], "b": ["x", "z"]}, "b: new: z"),
    ],
)
def test_what_is_lost_or_new_fails_without_any_psi(current, said, tmp_path, capsys):
    reference = {"a": [1, 2], "b": ["x", "y"]}
    for name, columns in (("before", reference), ("now", current)):
        table = pd.DataFrame({key: values * 50 for key, values in columns.items()})
        table.to_parquet(tmp_path / f"{name}.parquet")
    argv = ["drift", str(tmp_path / "before.parquet"), str(tmp_path / "now.parquet"), "--threshold", "99"]
    assert main(argv) == 0
    assert main([*argv, "--on_drift", "fail"]) == (7 if said else 0)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("threshold", ["nan", "-1", "inf"])
def test_a_threshold_that_is_none_is_refused(threshold, tables, capsys):
    assert main(["drift", *tables, f"--threshold={threshold}"]) == 2
    assert "--threshold" in capsys.readouterr().err


def test_files_of_one_table_that_differ_in_type_are_one_line(tmp_path):
    for name, values in (("a", [1, 2]), ("b", ["x", "y"])):
        pd.DataFrame({"n": values}).to_parquet(tmp_path / f"{name}.parquet")
    paths = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    with pytest.raises(ConfigError, match=r"b.parquet: a column is not of the type it has in .*a.parquet"):
        find_drift(paths, paths, 0.25)


def test_a_run_is_compared_by_its_predictions(tmp_path):
    for name, shift in (("before", 0.0), ("now", 0.3)):
        scores = np.random.default_rng(0).uniform(0, 0.5, 3000) + shift
        (tmp_path / name / "predictions.parquet").mkdir(parents=True)
        table = pd.DataFrame({"prediction_score": scores})
        table.to_parquet(tmp_path / name / "predictions.parquet/0.parquet")
        (tmp_path / name / "report.csv").write_text("other,columns\n1,2\n")
    argv = ["drift", str(tmp_path / "before"), str(tmp_path / "now"), "--on_drift", "fail"]
    assert main(argv) == 7
    assert main([*argv[:2], argv[1], *argv[3:]]) == 0


def test_of_many_rows_some_at_random_stand_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "_MAX_ROWS", 2000)
    sorted_ = pd.DataFrame({"x": np.arange(300_000.0)})
    sorted_.to_parquet(tmp_path / "a.parquet")
    sorted_[::-1].to_parquet(tmp_path / "b.parquet")
    found = find_drift([str(tmp_path / "a.parquet")], [str(tmp_path / "b.parquet")], 0.25)
    assert found.rows == (2000, 2000)
    assert found.columns[0].psi < 0.02


def test_too_few_rows_are_told(tmp_path):
    paths = []
    for seed in (0, 1):
        customers(60, seed).to_csv(tmp_path / f"{seed}.csv", index=False)
        paths.append(str(tmp_path / f"{seed}.csv"))
    said = find_drift([paths[0]], [paths[1]], 0.25).text()
    assert "too few rows: by chance alone they give a PSI of about 0.3" in said
