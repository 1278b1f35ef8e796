"""The subcommand that answers requests with a model; knows what people type, not how they are answered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from spark_embed.cli.commands import Write
from spark_embed.errors import ConfigError

_PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "limits", "prometheus_client")


def run_serve(argv: Sequence[str], write: Write) -> None:
    """Serve a model until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting cannot be used, or the extra is not installed.
        SparkEmbedError: the model cannot be used, or has stopped working.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"serve: {missing[0]} is not installed; pip install 'spark-embed[service]'")
    # Before torch is imported: its OpenMP threads else spin as they wait for each other, and take the cores
    # from those that decode: a forward pass on 2 cores, with others at work, then takes 4 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from spark_embed.logs import start_service_logging
    from spark_embed.service.realtime.load_settings import load_settings, read_api_key
    from spark_embed.service.realtime.server import serve

    settings = load_settings(argv, os.environ)
    start_service_logging(settings.logging.level, settings.logging.format)
    serve(settings, read_api_key(settings, os.environ))
