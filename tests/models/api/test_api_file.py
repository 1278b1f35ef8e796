"""The YAML file of a remote model: what is wrong in it is told in one line; paths become typed columns."""

import re

import pytest
import yaml

from spark_embed.cli.estimate import as_sample
from spark_embed.config import Config, ModelOptions
from spark_embed.errors import ConfigError, RowError
from spark_embed.inference.recipes import make_recipe
from spark_embed.models.api.columns import parse_column
from spark_embed.models.api.file import parse_api
from spark_embed.models.api.providers import ASKING

from support.checkout import REPOSITORY

GOOD = "provider: openai_chat\nbase_url: http://localhost:8000/v1\nmodel: m\n"

WRONG = {
    "provider: openai_chat\nmodel: m": "base_url: must be a url such as",
    "provider: openai_chat\nbase_url: http://h/v1": "model is missing",
    "provider: opnai\nbase_url: http://h/v1\nmodel: m": "provider 'opnai': must be 'openai_chat', 'openai",
    GOOD + "requests_per_sec: 3": "unknown name 'requests_per_sec'; did you mean requests_per_s?",
    GOOD + "prices: {pages: 1}": "unknown name 'prices.pages'; did you mean page?",
    GOOD + "requests_per_s: .nan": "requests_per_s nan: must be a finite number",
    GOOD + "attempts: 0": "attempts 0: must be greater than",
    GOOD + "key: sk-4711": "key: must be the name of an environment variable that holds the key, not the key",
    GOOD + "key: [sk-4711]": "key: must be a valid string",
    GOOD.replace("http://localhost:8000/v1", "['http://u:sk-4711@h']"): "base_url: must be a valid string",
    GOOD + "fields: {stream: true}": "fields: stream is not yours to set here",
    GOOD + "fields: {a: .nan}": "fields: must be what JSON can say: ",
    GOOD + "fields: {a: !!binary /w==}": "fields: must be what JSON can say: ",
    GOOD + "fields: &a {b: *a}": "fields: must be what JSON can say: ",
    GOOD + "max_cost_usd: 5": "max_cost_usd is an option of the command now: --max_cost",
    GOOD + "pages_per_minute: 5": "pages_per_minute: openai_chat counts tokens: tokens_per_minute",
    GOOD + "prices: {page: 5}": "prices.page: openai_chat counts tokens, not pages",
    "provider: document_parse\nmodel: m\ntokens_per_minute: 5": "tokens_per_minute: document_parse counts",
    GOOD + "columns: {raw: a}": "columns: 'raw' cannot be a column's name",
    GOOD + "columns: {Error: a}": "columns: 'Error' cannot be a column's name",
    GOOD + "columns: {a: b as text}": "columns: a: 'b as text' must be a path, or 'path as type' with one of",
    GOOD + "columns: {a: 'b[x]'}": "columns: a: 'b[x]' is no path such as choices[0].message.content",
    "provider: openai_chat\nbase_url: http://u:p@h/v1\nmodel: m": "base_url: must hold no key, password or",
    "[1, 2]": "must hold lines such as",
    "1: 2\n" + GOOD: "1: Keys should be strings",
    "a: !!python/object/apply:os.getcwd []": "not YAML: could not determine a constructor",
}


def test_a_limit_of_cost_without_prices_is_refused(tmp_path):
    path = tmp_path / "api.yaml"
    options = {"input_dir": "in", "output_dir": "out", "model_directory": str(path), "max_cost": 5}
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match=f"^--max_cost 5: stops nothing without prices: say in {path} what"):
        make_recipe(Config(**options))
    make_recipe(Config(**options, hourly_price=1))
    path.write_text(GOOD + "prices: {request: 1}")
    make_recipe(Config(**options))


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=range(len(WRONG)))
def test_what_is_wrong_is_told_in_one_line(tmp_path, text, said):
    path = tmp_path / "api.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_recipe(ModelOptions(model_directory=str(path)))
    line = str(caught.value)
    assert line.startswith(f"--model_directory {path}: ")
    assert said in line
    assert "\n" not in line
    assert "sk-4711" not in line


def test_an_api_is_not_estimated(tmp_path):
    (tmp_path / "api.yaml").write_text(GOOD)
    config = Config(input_dir="in", output_dir="out", model_directory=str(tmp_path / "api.yaml"))
    with pytest.raises(ConfigError, match=r"api\.yaml: a remote API is not estimated"):
        as_sample(config)


def test_the_examples_of_the_page_are_right():
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/api.md").read_text(), re.DOTALL)
    described = [parse_api(yaml.safe_load(block), "docs/api.md") for block in blocks]
    assert {one.provider for one in described} == set(ASKING)


ANSWER = {
    "choices": [{"message": {"content": '```json\n{"label": "cat", "score": "0.5"}\n```'}}],
    "elements": [{"category": "table"}, {"category": "figure", "n": 2}],
    "pages": 3,
    "half": 0.5,
    "is_fine": True,
    "nothing": None,
    "vector": [1, 2.5],
    "lone": "\ud800",
    "huge": 1e400,
    "large": 1e300,
    "id": "9007199254740993",
}

VALUES = {
    "choices[0].message.content.label": "cat",
    "choices[0].message.content.score as float": 0.5,
    "elements[*].category as array<string>": ["table", "figure"],
    "elements": '[{"category": "table"}, {"category": "figure", "n": 2}]',
    "pages as int": 3,
    "pages as double": 3.0,
    "pages": "3",
    "is_fine as boolean": True,
    "vector as vector": [1.0, 2.5],
    "vector as array<float>": [1.0, 2.5],
    "missing": None,
    "nothing": None,
    "half as int": None,
    "pages as boolean": None,
    "is_fine as float": None,
    "elements[2]": None,
    "elements.category": None,
    "elements[*].n as array<float>": None,
    "pages.x": None,
    "choices[0].message.content.label.x": None,
    "lone": None,
    "huge as double": None,
    "large as float": None,
    "large as double": 1e300,
    "id as bigint": 9007199254740993,
}


@pytest.mark.parametrize(("place", "value"), VALUES.items())
def test_a_path_gives_a_value_of_its_type_or_says_what_is_missing(place, value):
    column = parse_column("found", place)
    if value is not None:
        assert column.value(ANSWER) == value
        return
    with pytest.raises(RowError, match=r"bad_answer: found: no .* at .*") as caught:
        column.value(ANSWER)
    assert caught.value.code == "bad_answer"
