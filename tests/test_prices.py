"""The file of prices that people edit: what it holds as shipped, and what is wrong with one, in a line."""

import pytest
from cost_table import at_speed

from spark_embed.errors import ConfigError
from spark_embed.load_config import conf_folder
from spark_embed.prices import read_prices

TEXT = """
date: 2026-01-31
region: eu-west-1
instances:
  g5.xlarge: {ec2: 1.0, emr: 0.25, spot: 0.4}
  m5.xlarge: {ec2: 0.2}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "prices.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("instance", "market", "emr", "price"),
    [
        ("g5.xlarge", "on_demand", False, 1.0),
        ("g5.xlarge", "on_demand", True, 1.25),
        ("g5.xlarge", "spot", True, 0.65),
        ("m5.xlarge", "on_demand", False, 0.2),
        ("m5.xlarge", "on_demand", True, None),  # a price without EMR's part would be too low
        ("m5.xlarge", "spot", False, None),
        ("p9.xlarge", "on_demand", False, None),
    ],
)
def test_a_price_is_known_whole_or_not_at_all(write, instance, market, emr, price):
    assert read_prices(write(TEXT)).hourly(instance, market, emr=emr) == price


def test_a_missing_price_is_a_line_that_says_where_to_add_it(write):
    path = write(TEXT)
    assert read_prices(path).say_missing("m5.xlarge", "spot", emr=True) == (
        f"{path} (of 2026-01-31, eu-west-1) has no spot and no emr price of m5.xlarge: add m5.xlarge: "
        "{spot: USD, emr: USD} there, or give --hourly_price"
    )


def test_the_file_that_is_shipped_can_be_read():
    prices = read_prices(str(conf_folder() / "prices.yaml"))
    assert prices.hourly("g5.xlarge") > prices.hourly("g5.xlarge", "spot") > 0


def test_a_machine_without_a_gpu_has_no_price_at_the_speed_of_one():
    assert any("m5.xlarge" in line for line in at_speed(200))
    fast = "\n".join(at_speed(5000))
    assert "m5.xlarge" not in fast
    assert "m6i.2xlarge" not in fast
    assert "g6.2xlarge" in fast


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace("1.0", "free"), "instances.g5.xlarge.ec2: .* not 'free'"),
        (TEXT.replace("1.0", "-1"), "instances.g5.xlarge.ec2: .*greater than 0"),
        (TEXT.replace("emr", "fee"), "instances.g5.xlarge.fee: Extra inputs"),
        (TEXT.replace("2026-01-31", "January"), "date: "),
        ("- a list", "is no file of prices"),
        ("", "is no file of prices"),
        ("a: [", "is no file of prices"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_file_and_place(write, text, said):
    path = write(text)
    with pytest.raises(ConfigError, match=said) as told:
        read_prices(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"/no/prices\.yaml: cannot be read: No such file"):
        read_prices("/no/prices.yaml")
