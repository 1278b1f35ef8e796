"""Command lines made of fields of pydantic models, and what is said of a wrong flag; knows no option."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from spark_embed.config import default_text, describe_option
from spark_embed.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse that raises our error instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line has wrong."""
        raise ConfigError(f"{message} (--help lists the flags)")


class OptionParser(Parser):
    """A parser of options that are fields of pydantic models, each written --name value.

    Args:
        prog: what people type.
        usage: what they type behind it.
        description, epilog: above and below the flags, in lines of at most a hundred characters.
    """

    def __init__(self, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog=epilog,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=100),
        )
        self.add_argument("--version", action="version", version=_versions())
        self._names: list[str] = []

    def add_options(self, title: str, options: Mapping[str, FieldInfo]) -> None:
        """Add a group of flags."""
        group = self.add_argument_group(title)
        for name, field in options.items():
            text = describe_option(field) + (
                "" if field.is_required() else f" [{default_text(field, plain=True)}]"
            )
            switch: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
            metavar = "true|false" if switch else name.split("_")[-1].upper()
            group.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"), **switch)
            self._names.append(name)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the texts of the flags that are given, by name.

        Raises:
            ConfigError: there is something else.
        """
        known, unknown = self.parse_known_args(argv)
        for word in unknown:
            if word.startswith("-"):
                flag = word.split("=")[0]
                name = flag.lstrip("-").replace("-", "_")
                raise ConfigError(f"unknown flag {flag}{nearest(name, self._names, '--{}'.format)}")
            raise ConfigError(f"{word!r} does not belong to a flag; every option is written --name value")
        return vars(known)


def nearest(
    name: str,
    known: Collection[str],
    spell: Callable[[str], str] = str,
    otherwise: str = " (--help lists them)",
    cutoff: float = 0.5,
) -> str:
    """Return the end of a line about an unknown name: which known one was meant, as people `spell` it."""
    begun = sorted((one for one in known if name and one.startswith(name.lower())), key=len)
    close = begun or difflib.get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    return f"; did you mean {spell(close[0])}?" if close else otherwise


def _versions() -> str:
    """Return what a report of a fault should begin with."""
    said = [f"{name} {_version(name)}" for name in ("spark-embed", "pyspark")]
    return f"{', '.join(said)}, Python {'.'.join(map(str, sys.version_info[:3]))}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy without its metadata: --py-files, PYTHONPATH, a platform's Spark
        return "of unknown version"
