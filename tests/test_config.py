"""Options: where each value comes from, and what is said of a wrong one."""

import pytest

from spark_embed import load_config as load_config_module
from spark_embed.config import GROUPS, Config, options_table
from spark_embed.errors import ConfigError
from spark_embed.load_config import load_config

PATHS = ["--input_dir", "in", "--output_dir", "out"]


def error_of(argv, environ=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(argv, environ or {})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_flag_beats_the_environment_beats_the_yaml_beats_the_env_file(tmp_path):
    yaml = tmp_path / "run.yaml"
    yaml.write_text("batch_size: 3\nmax_samples: 30\nid_column: from_yaml\nparity_action: warn\n")
    environ = {"SPARK_EMBED_BATCH_SIZE": "2", "SPARK_EMBED_MAX_SAMPLES": "20"}
    flags = [*PATHS, "--config", str(yaml), "--env", "prod", "--batch_size", "1"]

    config = load_config(flags, environ)

    assert (config.batch_size, config.max_samples, config.id_column) == (1, 20, "from_yaml")
    assert config.parity_action == "warn"
    assert load_config([*PATHS, "--env", "prod"], {}).parity_action == "fail"  # conf/prod.yaml
    assert load_config(PATHS, {}).parity_action == "warn"


def test_everything_can_come_from_the_environment():
    environ = {"SPARK_EMBED_INPUT_DIR": "a", "SPARK_EMBED_OUTPUT_DIR": "b", "SPARK_EMBED_NORMALIZE": "false"}
    config = load_config([], {**environ, "OTHER": "x"})
    assert (config.input_dir, config.output_dir, config.normalize) == ("a", "b", False)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--overwrite"], True),
        (["--overwrite", "false"], False),
        (["--overwrite=true"], True),
        (["--overwrite", "--batch_size", "4"], True),
    ],
)
def test_a_switch_needs_no_value_and_takes_one(argv, expected):
    assert load_config([*PATHS, *argv], {}).overwrite is expected


def test_names_are_separated_by_commas_and_sizes_have_units():
    config = load_config([*PATHS, "--columns", "a, b,c", "--output_file_bytes", "1MiB"], {})
    assert config.columns == ("a", "b", "c")
    assert config.output_file_bytes == 1 << 20
    assert load_config(PATHS, {}).output_file_bytes == 128 << 20


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--input_dir", "in"], {}, ["--output_dir", "required"]),
        ([*PATHS, "--batchsize", "3"], {}, ["--batchsize", "did you mean --batch_size"]),
        ([*PATHS, "--batch-sizes", "3"], {}, ["--batch-sizes", "did you mean --batch_size"]),
        (
            [*PATHS, "--batch_size", "0"],
            {},
            ["--batch_size", "'0'", "the command line", "greater than or equal to 1"],
        ),
        ([*PATHS, "--batch_size", "many"], {}, ["--batch_size", "'many'", "integer", "'auto'"]),
        ([*PATHS, "--batch_size"], {}, ["--batch_size", "expected one argument"]),
        ([*PATHS, "--env", "staging"], {}, ["--env", "'staging'", "'dev' or 'prod'"]),
        ([*PATHS, "--dtype", "int8"], {}, ["--dtype", "'int8'", "'bfloat16'"]),
        ([*PATHS, "extra"], {}, ["'extra'"]),
        (PATHS, {"SPARK_EMBED_BATCHSIZE": "1"}, ["SPARK_EMBED_BATCHSIZE", "SPARK_EMBED_BATCH_SIZE"]),
        (PATHS, {"SPARK_EMBED_BATCH_SIZE": "-1"}, ["--batch_size", "'-1'", "the environment"]),
        ([*PATHS, "--config", "/no/such.yaml"], {}, ["/no/such.yaml", "cannot be read"]),
        (["--input_dir", "", "--output_dir", "out"], {}, ["--input_dir ''", "at least 1 character"]),
        (["--input_dir=in"], {"SPARK_EMBED_OUTPUT_DIR": ""}, ["--output_dir ''", "the environment"]),
        ([*PATHS, "--model_directory", ""], {}, ["--model_directory ''"]),
        ([*PATHS, "--config", ""], {}, ["--config ''"]),
    ],
)
def test_a_wrong_option_is_one_line_with_its_name_its_value_and_what_is_allowed(argv, environ, words):
    text = error_of(argv, environ)
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("batch_sise: 3", "did you mean batch_size"),
        ("- a\n- b", "not a list"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("batch_size: 0", "greater than or equal to 1"),
        ("[" * 5000, "not YAML"),
        ("max_samples: 2026-02-31", "not YAML"),
        ("config: other.yaml", "config has no effect"),
    ],
)
def test_a_wrong_yaml_file_is_named(tmp_path, content, word):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    text = error_of([*PATHS, "--config", str(path)])
    assert word in text
    assert str(path) in text


def test_a_yaml_file_may_choose_the_environment(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("env: prod")
    assert load_config([*PATHS, "--config", str(path)], {}).parity_action == "fail"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("[", "not YAML"),
        ("env: dev", "env has no effect"),
        ("config: x", "config has no effect"),
        (None, "read"),
    ],
)
def test_a_wrong_or_missing_environment_file_is_named_by_itself(tmp_path, monkeypatch, content, word):
    monkeypatch.setattr(load_config_module, "conf_folder", lambda: tmp_path)
    path = tmp_path / "prod.yaml"
    if content:
        path.write_text(content)
    text = error_of([*PATHS, "--env", "prod"])
    assert word in text
    assert text.startswith(str(path))


def test_the_table_has_a_row_for_every_option():
    table = options_table()
    assert [name for name in Config.model_fields if f"| `--{name}` |" not in table] == []


def test_help_is_grouped_and_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], {})
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert [title for title in (*GROUPS, "exit codes") if f"\n{title}:\n" not in text] == []
    assert [name for name in Config.model_fields if f"--{name} " not in text] == []
