"""The subcommands that look at an output folder, from any machine that sees it, and change nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from spark_embed.cli.commands import Write
from spark_embed.flags import Parser
from spark_embed.output.folder import Output
from spark_embed.storage import folder_path


def run_status(argv: Sequence[str], write: Write) -> None:
    """Say how far the run on an output folder is.

    Raises:
        SparkEmbedError: as `read_status`.
    """
    from spark_embed.output.status import read_status

    parser = _parser(
        "status",
        "Say how far the run on an output folder is. Changes nothing.",
        "exit codes: 0 said, whatever it is; 2 no such folder, or none of ours; 4 it cannot be read; "
        "6 its state is broken",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    given = parser.parse_args(argv)
    status = read_status(_output(given))
    write((status.to_json() if given.json else status.text()) + "\n")


def run_verify(argv: Sequence[str], write: Write) -> None:
    """Read a published data set whole, and say what is wrong with it.

    Raises:
        VerifyError: something is wrong.
        SparkEmbedError: as `verify`.
    """
    from spark_embed.output.verify import verify

    parser = _parser(
        "verify",
        "Read a published data set whole: is every row there, once, with a good vector or an error? "
        "Changes nothing.",
        "exit codes: 0 nothing is wrong; 2 no such folder, or none of ours; 4 it cannot be read; "
        "7 something is wrong",
    )
    report = verify(_output(parser.parse_args(argv)))
    write(report.text() + "\n")
    report.check()


def _parser(command: str, description: str, epilog: str) -> Parser:
    parser = Parser(prog=f"spark-embed {command}", description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="the --output_dir of a run")
    return parser


def _output(given: argparse.Namespace) -> Output:
    return Output(folder_path(given.output_dir, "OUTPUT_DIR"))
