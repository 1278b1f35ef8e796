"""The log's lines: of a job, and of a service, in which all libraries have one format."""

import json
import logging
import warnings

import pytest
from uvicorn import Config

from spark_embed.logs import start_logging, start_service_logging

LOGGERS = ("", "spark_embed", "uvicorn", "uvicorn.error", "uvicorn.access", "py4j")


@pytest.fixture
def log(capsys):
    """Return the lines that went to stderr; the loggers are as before afterwards."""
    loggers = [logging.getLogger(name or None) for name in LOGGERS]
    before = [(one.handlers[:], one.level, one.propagate, one.filters[:]) for one in loggers]
    yield lambda: capsys.readouterr().err.splitlines()
    logging.captureWarnings(capture=False)
    for one, (handlers, level, propagate, filters) in zip(loggers, before, strict=True):
        one.handlers, one.propagate, one.filters = handlers, propagate, filters
        one.setLevel(level)


def lines_of(log) -> list[dict]:
    return [json.loads(line) for line in log()]


def test_a_job_s_extra_fields_are_one_object(log):
    start_logging("prod")
    logging.getLogger("spark_embed.run").info("found %d", 3, extra={"n_rows": 27})
    (line,) = lines_of(log)
    assert list(line) == ["timestamp", "level", "logger", "message", "fields"]
    assert (line["message"], line["fields"]) == ("found 3", {"n_rows": 27})


def test_a_service_s_lines_have_all_keys_at_the_top(log):
    start_logging("dev")  # the command does so first
    start_service_logging("INFO", "json")
    logger = logging.getLogger("spark_embed.service.realtime.app")
    logger.debug("not heard")
    request = {"request_id": "r1", "queue_depth": 2, "total_time_ms": 1.5, "level": "no", "message2": "x"}
    logger.info("answered", extra=request)
    logger.warning("alone")
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed")
    answered, alone, failed = lines_of(log)
    assert list(answered)[:6] == ["timestamp", "level", "logger", "message", "request_id", "queue_depth"]
    assert (answered["request_id"], answered["queue_depth"], answered["total_time_ms"]) == ("r1", 2, 1.5)
    assert answered["level"] == "INFO"
    assert "fields" not in answered
    assert (alone["request_id"], alone["queue_depth"]) == (None, None)
    assert "ValueError: why" in failed["exception"]


def test_uvicorn_libraries_and_warnings_come_out_in_the_service_s_format(log):
    start_service_logging("INFO", "json")
    Config("no:app", log_config=None, access_log=True)
    logging.getLogger("uvicorn.error").info(
        "Uvicorn running on %s", "x", extra={"color_message": "\x1b[1m%s"}
    )
    access = logging.getLogger("uvicorn.access")
    access.info("GET /infer")
    logging.getLogger("httpx").info("not heard")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    warnings.warn("old", UserWarning, stacklevel=1)
    lines = lines_of(log)
    assert [line["logger"] for line in lines] == ["uvicorn.error", "asyncio", "py.warnings"]
    assert lines[0]["message"] == "Uvicorn running on x"
    assert "color_message" not in lines[0]
    assert not access.hasHandlers(), "else uvicorn writes a line for each request"


def test_a_service_s_text_is_for_people(log):
    start_service_logging("DEBUG", "text")
    logging.getLogger("spark_embed.x").debug("heard")
    logging.getLogger("uvicorn.error").warning("too")
    assert [line[9:] for line in log()] == ["DEBUG   heard", "WARNING too"]
