"""The service's settings: where each value comes from, what is said of a wrong one, and what never is."""

import logging
import pickle
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import pytest

from spark_embed.config import ModelOptions
from spark_embed.errors import ConfigError
from spark_embed.load_config import conf_folder
from spark_embed.service.realtime.load_settings import load_settings, read_api_key
from spark_embed.service.realtime.settings import SECTIONS, Settings

from support.checkout import REPOSITORY

SECRET = "sk-12345"


@pytest.fixture
def yaml_file(tmp_path):
    """Write a file of settings, and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return str(path)

    return write


def error_of(argv, environ=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(argv, environ or {})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_flag_beats_the_environment_beats_the_file_beats_the_env_beats_base(
    yaml_file, monkeypatch, tmp_path
):
    base = {"max_queue_size": 1, "max_images": 1, "request_timeout_s": 1, "drain_timeout_s": 1}
    names = [*base, "n_decode_threads"]
    (tmp_path / "service").mkdir()
    for number, name in ((0, "base"), (1, "dev")):
        lines = [f"  {key}: {number + 1}" for key in names[number:]]
        (tmp_path / f"service/{name}.yaml").write_text("\n".join(["server:", *lines]))
    monkeypatch.setattr("spark_embed.service.realtime.load_settings.conf_folder", lambda: tmp_path)
    config = yaml_file("server: {request_timeout_s: 3, drain_timeout_s: 3, n_decode_threads: 3}")
    environ = {"INFERENCE_SERVER__DRAIN_TIMEOUT_S": "4", "INFERENCE_SERVER__N_DECODE_THREADS": "4"}

    server = load_settings(["--config", config, "--n_decode_threads", "5"], environ).server

    assert [getattr(server, name) for name in names] == [1, 2, 3, 4, 5]


def test_scripts_that_set_variables_work_as_they_are(yaml_file):
    environ = {
        "INFERENCE_SERVICE__PORT": "9000",
        "INFERENCE_LOGGING__LEVEL": "warning",
        "INFERENCE_SERVER__CORS_ORIGINS": "https://a.example, https://b.example",
        "INFERENCE_CONFIG_PATH": yaml_file("service:\n  name: captions\n  port: 1\nmodel:\n"),
        "ENVIRONMENT": "prod",
        "INFERENCE_API_KEY": SECRET,
        "OTHER": "x",
    }
    settings = load_settings([], environ)
    assert (settings.service.port, settings.service.name) == (9000, "captions")
    assert (settings.logging.level, settings.logging.format) == ("WARNING", "json")
    assert settings.server.cors_origins == ("https://a.example", "https://b.example")
    assert SECRET not in repr(settings) + settings.model_dump_json()
    in_dev = load_settings(["--env", "dev"], environ).logging
    assert (in_dev.level, in_dev.format) == ("WARNING", "text")
    assert load_settings([], {}).logging.level == "DEBUG"


def test_the_files_that_come_with_it_are_found_in_a_zip_too(tmp_path):
    """In a process of its own, as spark-submit --py-files brings the package."""
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as package:
        for folder, place in ((REPOSITORY / "spark_embed", ""), (conf_folder(), "spark_embed/")):
            for path in folder.rglob("*"):
                if path.suffix in (".py", ".yaml"):
                    package.write(path, f"{place}{path.relative_to(folder.parent)}")
    program = (
        "from spark_embed.service.realtime.load_settings import load_settings, conf_folder;"
        "print(conf_folder(), load_settings(['--env', 'prod'], {}).logging.format)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path / "package.zip"), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, found = done.stdout.split()
    assert (place.startswith(str(tmp_path)), found) == (True, "json")


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--porrt", "1"], {}, ["unknown flag --porrt", "did you mean --port?"]),
        (["--batch-size", "1"], {}, ["--batch-size", "did you mean --batch_size?"]),
        ([], {"INFERENCE_SERVICE__PROT": "1"}, ["INFERENCE_SERVICE__PROT", "INFERENCE_SERVICE__PORT?"]),
        ([], {"INFERENCE_SERVICE_PORT": "1"}, ["INFERENCE_SERVICE_PORT;", "INFERENCE_SERVICE__PORT?"]),
        ([], {"INFERENCE_PORT": "1"}, ["variable INFERENCE_PORT;", "INFERENCE_SERVICE__PORT?"]),
        ([], {"INFERENCE_CONFIG": "x"}, ["did you mean INFERENCE_CONFIG_PATH?"]),
        ([], {"INFERENCE_SERVER__API_KEY": SECRET}, ["did you mean INFERENCE_SERVER__API_KEY_FILE?"]),
        ([], {"INFERENCE_MODEL__HF_TOKEN": SECRET}, ["unknown", "INFERENCE_MODEL__HF_TOKEN"]),
        ([f"--api_key={SECRET}"], {}, ["unknown flag --api_key;", "did you mean --api_key_file?"]),
        (["--port", "x"], {}, ["service.port 'x' (from --port): must be a valid integer"]),
        (
            [],
            {"INFERENCE_SERVICE__PORT": "99999"},
            ["service.port '99999'", "(from INFERENCE_SERVICE__PORT)"],
        ),
        (["--dtype", "int8"], {}, ["model.dtype 'int8'", "'float32', 'bfloat16'"]),
        (["--batch_size", "auto"], {}, ["model.batch_size 'auto'", "integer"]),
        (["--batch_wait_s", "nan"], {}, ["model.batch_wait_s 'nan'"]),
        (["--request_timeout_s", "inf"], {}, ["server.request_timeout_s 'inf'", "finite"]),
        (["--max_body_bytes", "64 lots"], {}, ["server.max_body_bytes '64 lots'", "byte"]),
        (["--rate_limit", "many"], {}, ["server.rate_limit 'many'", "100/second"]),
        (["--cors_origins", "a.example"], {}, ["server.cors_origins", "https://example.com"]),
        (["--device", "tpu"], {}, ["model.device 'tpu'", "cuda:1"]),
        (["--level", "loud"], {}, ["logging.level 'LOUD'", "'DEBUG', 'INFO'"]),
        (["--host", ""], {}, ["service.host ''"]),
        (["--env", "staging"], {}, ["--env 'staging': must be 'dev' or 'prod'"]),
        ([], {"ENVIRONMENT": "production"}, ["ENVIRONMENT 'production': must be 'dev' or 'prod'"]),
        (["--config", "/no/such.yaml"], {}, ["--config /no/such.yaml: cannot be read"]),
        ([], {"INFERENCE_CONFIG_PATH": "/no/such.yaml"}, ["INFERENCE_CONFIG_PATH /no/such.yaml: cannot be"]),
    ],
)
def test_a_wrong_setting_is_one_line_with_what_is_allowed_and_where_it_stood(argv, environ, words):
    text = error_of(argv, environ)
    assert [word for word in words if word not in text] == [], text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("servce: {port: 1}", "unknown section 'servce'; did you mean service?"),
        ("port: 8000", "unknown section 'port'; did you mean service: {port: ...}?"),
        ("service.port: 8000", "unknown section 'service.port'; did you mean service: {port: ...}?"),
        ("service: {prot: 1}", "unknown key service.prot; did you mean service.port?"),
        ("server: {port: 1}", "unknown key server.port; did you mean service.port?"),
        (f"server: {{api_key: {SECRET}}}", "unknown key server.api_key; did you mean server.api_key_file?"),
        ("service: 8000", "service must hold indented lines such as 'port: 8000', not a int"),
        ("service: {port: 1, port: 2}", "port is there twice"),
        ("model: {top_k: 0}", "model.top_k 0 (from --config"),
        ("ray: {num_gpus: all}", "ray.num_gpus 'all' (from --config"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(yaml_file, content, words):
    path = yaml_file(content)
    text = error_of(["--config", path])
    assert words in text
    assert path in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("content", "environ", "n_processes", "said"),
    [
        (
            "ray: {num_gpus: 2, num_cpus: 4, address: auto}",
            {},
            2,
            "ray.num_gpus 2 is read as server.n_processes 2; ray.num_cpus, ray.address: not used any more",
        ),
        ("ray: {num_gpus: 0.5}", {}, 1, "ray.num_gpus 0.5 is read as server.n_processes 1"),
        ("ray: {num_gpus: 0}", {}, 1, "ray.num_gpus 0 is read as server.n_processes 1"),
        ("ray: {num_cpus: 4}", {}, 1, "ray.num_cpus: not used any more"),
        ("{}", {"INFERENCE_RAY__NUM_GPUS": "3"}, 3, "ray.num_gpus 3 is read as server.n_processes 3"),
        ("ray: {num_gpus: 2}\nserver: {n_processes: 4}", {}, 4, "ray.num_gpus 2 is read"),
        ("ray:", {}, 1, None),
    ],
)
def test_the_gpus_of_older_files_are_processes_and_one_line_says_so(
    yaml_file, caplog, content, environ, n_processes, said
):
    with caplog.at_level(logging.INFO):
        settings = load_settings(["--config", yaml_file(content)], environ)
    assert settings.n_processes == n_processes
    lines = [record.message for record in caplog.records]
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def test_what_kubernetes_says_of_a_service_called_inference_is_no_setting():
    made = {
        "INFERENCE_SERVICE_HOST": "10.0.0.1",
        "INFERENCE_SERVICE_PORT": "80",
        "INFERENCE_SERVICE_PORT_HTTP": "80",
        "INFERENCE_PORT": "tcp://10.0.0.1:80",
        "INFERENCE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "INFERENCE_PORT_80_TCP_PORT": "80",
        "INFERENCE_SERVER_SERVICE_HOST": "10.0.0.2",
        "INFERENCE_SERVER_PORT": "tcp://10.0.0.2:80",
    }
    settings = load_settings([], {**made, "INFERENCE_SERVICE__PORT": "9000"})
    assert settings.service.port == 9000
    assert "INFERENCE_SERVICE__PORT?" in error_of([], {**made, "INFERENCE_SERVICE__PROT": "1"})


def test_help_names_every_setting_by_its_section(capsys):
    with pytest.raises(SystemExit) as caught:
        load_settings(["--help"], {})
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert [name for name in (*SECTIONS, "files") if f"\n{name}:\n" not in text] == []
    keys = [key for fields in SECTIONS.values() for key in fields]
    assert [key for key in (*keys, "config", "env") if f"--{key} " not in text] == []


def test_the_model_is_chosen_by_the_options_of_a_job():
    settings = load_settings(["--model_directory", "m", "--dtype", "float32", "--batch_size", "8"], {})
    assert settings.model_options() == ModelOptions(model_directory="m", dtype="float32", batch_size=8)
    assert load_settings([], {}).model_options() == ModelOptions()
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_only_what_is_given_wins_over_the_run_that_the_service_is_like():
    settings = load_settings(["--like", "out", "--model_directory", "moved", "--batch_size", "4"], {})
    assert settings.model.like == "out"
    assert settings.given_options() == {"model_directory": "moved", "batch_size": 4}


@dataclass
class KeyCase:
    """What is in the file and in the variable, and the key, or what is said."""

    file: bytes | None
    variable: str | None
    key: str | None = None
    error: str = ""


@pytest.mark.parametrize(
    "case",
    [
        KeyCase(None, None),
        KeyCase(None, SECRET, SECRET),
        KeyCase(f"{SECRET}\r\n".encode(), "other", SECRET),
        KeyCase(b" a b \n", None, " a b "),
        KeyCase(b"\n", SECRET, error="is empty"),
        KeyCase(None, "", error="INFERENCE_API_KEY: is empty"),
        KeyCase(f"{SECRET}\n{SECRET}".encode(), None, error="must be one line"),
        KeyCase(b"\xff" + SECRET.encode(), None, error="cannot be read"),
    ],
)
def test_the_key_is_that_of_the_file_else_of_the_variable_and_is_never_said(tmp_path, case):
    settings = Settings()
    if case.file is not None:
        (tmp_path / "key").write_bytes(case.file)
        settings = load_settings(["--api_key_file", str(tmp_path / "key")], {})
    environ = {} if case.variable is None else {"INFERENCE_API_KEY": case.variable}
    if not case.error:
        assert read_api_key(settings, environ) == case.key
        return
    with pytest.raises(ConfigError, match=case.error) as caught:
        read_api_key(settings, environ)
    assert SECRET not in str(caught.value) + repr(settings)
