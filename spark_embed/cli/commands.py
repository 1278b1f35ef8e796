"""What can stand behind `spark-embed`: each command's name, its line in --help, and where it is; knows none.

A command is imported when it is asked for: most need neither Spark nor a model, and start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, cast

from spark_embed.errors import ConfigError
from spark_embed.flags import nearest

Write = Callable[[str], object]
Run = Callable[[Sequence[str], Write], None]

ESTIMATE = "estimate"


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        says: its line in --help.
        place: module and function; none of `estimate`, which goes the way of a run.
    """

    says: str
    place: str

    def load(self) -> Run:
        """Import what runs it."""
        module, _, name = self.place.partition(":")
        return cast(Run, getattr(import_module(f"spark_embed.cli.{module}"), name))


COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "a run": {
        ESTIMATE: Command("how long a run will take, and what it will cost", ""),
        "check-model": Command("try a model folder with code, before a run", "check_model:run_check_model"),
        "status": Command("how far the run on an output folder is", "status:run_status"),
        "verify": Command("is every row there, once, with a good vector or an error?", "status:run_verify"),
        "report": Command("one page about a run, or about a comparison", "report:run_report"),
    },
    "its vectors": {
        "index": Command("index the vectors of an output folder", "search:run_index"),
        "search": Command("pictures near to a picture, to words or to a row", "search:run_search"),
        "explore": Command("a page to look at an index", "explore:run_explore"),
        "duplicates": Command("pictures that are there more than once", "duplicates:run_duplicates"),
        "serve": Command("answer requests with a model, by HTTP", "serve:run_serve"),
    },
    "tables": {
        "validate": Command("is a table what a model and your rules want?", "tables:run_validate"),
        "drift": Command("how far a table has moved from another", "tables:run_drift"),
    },
    "elsewhere": {
        "emr": Command("run the job on Amazon EMR", "emr:run_emr"),
        "batch": Command("run the job on AWS Batch", "batch:run_batch"),
        "compare": Command("what each usual mistake of a slow pipeline costs here", "compare:run_compare"),
    },
}
"""By what they are about."""


def find_command(name: str) -> Command:
    """Return a command.

    Raises:
        ConfigError: there is none of this name.
    """
    known = {name: command for group in COMMANDS.values() for name, command in group.items()}
    if name not in known:
        raise ConfigError(f"{name!r} is no command{nearest(name, known, cutoff=0.6)}")
    return known[name]


def describe_commands() -> str:
    """Return what --help says of the run and of the commands beside it."""
    lines = ["Turn a folder of images, in any layout, into a folder of embeddings or labels, with Spark."]
    for title, group in COMMANDS.items():
        lines += ["", f"{title}:", *(f"  spark-embed {name:<13}{one.says}" for name, one in group.items())]
    return "\n".join([*lines, "", "Each has a --help. The options of a run:"])
