"""Flags, environment and YAML files -> one `Settings`; every other file of the service receives it finished.

A flag (--port) beats the environment (INFERENCE_SERVICE__PORT), which beats the --config YAML, which beats
conf/service/<env>.yaml, which beats base.yaml beside it. Which settings there are is settings.py's business.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from spark_embed.config import ENVIRONMENTS
from spark_embed.errors import ConfigError
from spark_embed.flags import OptionParser, nearest
from spark_embed.load_config import conf_folder, explain_value, load_yaml
from spark_embed.service.realtime.settings import SECTIONS, Settings

logger = logging.getLogger(__name__)

PREFIX = "INFERENCE_"
CONFIG_PATH = "INFERENCE_CONFIG_PATH"
API_KEY = "INFERENCE_API_KEY"
ENVIRONMENT = "ENVIRONMENT"

_NAMES = {f"{section}.{key}": key for section, fields in SECTIONS.items() for key in fields}
_OLD_SECTION = "ray"
_FILES: Mapping[str, FieldInfo] = {
    "config": FieldInfo(
        default=None, description=f"YAML file (local or s3://) with any of these settings; or {CONFIG_PATH}"
    ),
    "env": FieldInfo(
        default="dev", description=f"reads conf/service/<env>.yaml (dev, prod); or {ENVIRONMENT}"
    ),
}

Layer = dict[str, tuple[Any, str]]
"""The values of one source, by section.key, and where each of them stands."""


def load_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Merge flags, environment and YAML files into `Settings`.

    What older files have that is not used any more is logged.

    Raises:
        ConfigError: an unknown or wrong setting, with where it stands and the nearest real name.
    """
    flags = _parser().read(argv)
    env, said = _either(flags, "env", environ, ENVIRONMENT, "dev")
    if env not in ENVIRONMENTS:
        raise ConfigError(f"{said} {env!r}: must be {' or '.join(map(repr, ENVIRONMENTS))}")
    folder = conf_folder() / "service"
    ours = [str(folder / "base.yaml"), str(folder / f"{env}.yaml")]
    layers = [_read_file(path, path) for path in ours]
    config, said = _either(flags, "config", environ, CONFIG_PATH, None)
    if config is not None:
        layers.append(_read_file(config, f"{said} {config}"))
    layers.append(_read_environment(environ))
    layers.append({name: (flags[key], f"--{key}") for name, key in _NAMES.items() if key in flags})
    return _make_settings(layers)


def read_api_key(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the key that each request must bring, None if none is asked for; it is never logged.

    Raises:
        ConfigError: the file cannot be read, or what should be the key is empty or more than one line.
    """
    path = settings.server.api_key_file
    if path is None:
        if API_KEY not in environ:
            return None
        key, said = environ[API_KEY].rstrip("\r\n"), API_KEY
    else:
        said = f"server.api_key_file {path}"
        try:
            with open(path, encoding="utf-8") as file:
                key = file.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{said}: cannot be read: {type(exc).__name__}") from None
    if not key.strip():
        raise ConfigError(f"{said}: is empty; leave it out to ask for no key")
    if len(key.splitlines()) > 1 or not key.isascii():
        raise ConfigError(f"{said}: must be one line of ASCII, as headers are")
    return key


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="spark-embed serve",
        usage="[--OPTION VALUE ...]",
        description="Serve a model over HTTP: the vectors that a run gives, an image at a time.\n"
        "Each setting is also a key of a YAML file, in its section, and a variable: "
        f"{PREFIX}SERVICE__PORT=9000.",
        epilog="exit codes: as spark-embed's",
    )
    for section, fields in SECTIONS.items():
        parser.add_options(section, fields)
    parser.add_options("files", _FILES)
    return parser


def _either(
    flags: Mapping[str, Any], key: str, environ: Mapping[str, str], variable: str, default: str | None
) -> tuple[str | None, str]:
    """Return the value of a flag, else of a variable, and the name of that which gave it."""
    if key in flags:
        return flags[key], f"--{key}"
    return environ.get(variable, default), variable


def _read_file(path: str, called: str) -> Layer:
    layer: Layer = {}
    for section, values in load_yaml(path, called).items():
        if section not in (*SECTIONS, _OLD_SECTION):
            said = nearest(str(section), (*SECTIONS, *_NAMES), _spell_yaml)
            raise ConfigError(f"{called}: unknown section {section!r}{said}")
        if not isinstance(values, dict | None):
            raise ConfigError(
                f"{called}: {section} must hold indented lines such as 'port: 8000', not a "
                f"{type(values).__name__}"
            )
        layer |= {f"{section}.{key}": (value, called) for key, value in (values or {}).items()}
    for name in layer:
        if name not in _NAMES and not _is_old(name):
            raise ConfigError(f"{called}: unknown key {name}{nearest(name, _NAMES)}")
    return layer


def _read_environment(environ: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in (CONFIG_PATH, API_KEY):
            continue
        name = variable.removeprefix(PREFIX).lower().replace("__", ".")
        if name in _NAMES or _is_old(name):
            layer[name] = (value, variable)
        elif not _is_of_kubernetes(variable, environ):
            others = (known.removeprefix(PREFIX).lower() for known in (CONFIG_PATH, API_KEY))
            said = nearest(name, (*_NAMES, *others), _spell_variable)
            raise ConfigError(f"unknown environment variable {variable}{said}")
    return layer


def _spell_yaml(name: str) -> str:
    section, dot, key = name.partition(".")
    return f"{section}: {{{key}: ...}}" if dot else section


def _spell_variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


def _is_of_kubernetes(variable: str, environ: Mapping[str, str]) -> bool:
    """Say whether Kubernetes made a variable, for a Service whose name begins with `inference`.

    A container has some of each Service of its namespace: NAME_SERVICE_HOST, NAME_SERVICE_PORT (and one for
    each named port), NAME_PORT=tcp://10.0.0.11:80, NAME_PORT_80_TCP, ... (kubernetes.io/docs/concepts/
    services-networking/service/#environment-variables).
    """
    services = (
        name.removesuffix("_PORT")
        for name, value in environ.items()
        if name.endswith("_PORT") and re.match("(tcp|udp|sctp)://", value)
    )
    made = r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)"
    return any(re.fullmatch(re.escape(service) + made, variable) for service in services)


def _is_old(name: str) -> bool:
    return name.startswith(f"{_OLD_SECTION}.")


def _make_settings(layers: Sequence[Layer]) -> Settings:
    given: Layer = {}
    notes = []
    for layer in layers:
        old = {name: layer[name] for name in layer if _is_old(name)}
        if old:
            processes, note = _read_old(old)
            given |= processes
            notes.append(note)
        given |= {name: layer[name] for name in layer if name not in old}
    values: dict[str, dict[str, Any]] = {}
    for name, (value, _) in given.items():
        section, _, key = name.partition(".")
        values.setdefault(section, {})[key] = value
    try:
        settings = Settings.model_validate(values)
    except ValidationError as exc:
        name = ".".join(map(str, exc.errors()[0]["loc"][:2]))
        raise ConfigError(explain_value(exc, 2, name, given[name][1])) from exc
    for note in notes:
        logger.info("%s", note)
    return settings


def _read_old(old: Layer) -> tuple[Layer, str]:
    """Return what the section `ray` of an older file or script means here, and what to say of it."""
    origin = next(iter(old.values()))[1]
    unused = ", ".join(name for name in old if name != "ray.num_gpus")
    said = [f"{unused}: not used any more"] if unused else []
    layer: Layer = {}
    if "ray.num_gpus" in old:
        value, place = old["ray.num_gpus"]
        try:
            n_gpus = math.ceil(float(value))  # Ray takes fractions, and 0 for the CPU
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"ray.num_gpus {value!r} (from {place}): must be a number of GPUs") from None
        n_processes = max(1, n_gpus)
        layer["server.n_processes"] = (n_processes, place)
        said.insert(0, f"ray.num_gpus {value} is read as server.n_processes {n_processes}")
    return layer, f"{origin}: {'; '.join(said)}"
