"""What `spark-embed batch` and `spark-embed emr` do alike: parse, call and answer commands; knows none."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spark_embed.aws.job_flags import split_job
from spark_embed.aws.waiting import Detached
from spark_embed.cli.commands import Write
from spark_embed.errors import ConfigError
from spark_embed.flags import Parser

Commands = Mapping[str, tuple[Callable[..., None], str, str]]
"""Name -> what does it, what --help says, its exit codes."""


def add_commands(parser: Parser, commands: Commands) -> dict[str, argparse.ArgumentParser]:
    """Add the subcommands to a parser; returns each one's own, by name."""
    added = parser.add_subparsers(required=True, metavar="COMMAND", dest="name", parser_class=Parser)
    of: dict[str, argparse.ArgumentParser] = {}
    for name, (command, text, epilog) in commands.items():
        of[name] = added.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False)
        of[name].set_defaults(command=command)
    return of


def run_command(
    parser: Parser, argv: Sequence[str], run: Callable[[argparse.Namespace], None], more: str = ""
) -> None:
    """Parse a command line and run what it names; `submit` alone takes flags of the job behind --.

    Args:
        parser: with the subcommands.
        argv: what people typed.
        run: given what was parsed, and the job's flags as `job`.
        more: what is said of Ctrl-C besides.

    Raises:
        SparkEmbedError: as the epilogs of the subcommands say; Detached after Ctrl-C.
    """
    own, job = split_job(argv)
    given = parser.parse_args(own)
    given.job = job
    if job and given.name != "submit":
        raise ConfigError(f"only '{parser.prog} submit' takes flags of the job behind --")
    try:
        run(given)
    except KeyboardInterrupt as exc:
        raise Detached(f"interrupted; what was sent to AWS goes on{more}") from exc


def tell(told: Mapping[str, Any], write: Write) -> None:
    """Answer a command, as JSON."""
    write(json.dumps(told, indent=2) + "\n")
