"""`spark-embed compare`: what each mistake of a slow Spark pipeline costs here, one mended at a time."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from spark_embed.cli.commands import Write
from spark_embed.config import Config
from spark_embed.errors import StorageError
from spark_embed.flags import Parser
from spark_embed.load_config import load_config
from spark_embed.storage import existing_folder, folder_path, impatient, is_s3, write_json

logger = logging.getLogger(__name__)

_DEMO = "demo/photos"
_FILE = "compare.json"


def run_compare(argv: Sequence[str], write: Write) -> None:
    """Run the ladder, print its table and its verdict, and write them as JSON.

    Raises:
        VerifyError: a step has other vectors than the job.
        SparkEmbedError: as `spark_embed.compare.run.compare`.
    """
    given, others = _parser().parse_known_args(argv)
    folder, path = _find_output(given.output)
    config = load_config([*others, "--output_dir", folder], os.environ)
    from spark_embed.compare.ladder import choose

    steps = choose(given.only)
    from spark_embed.compare.run import check_vectors, compare
    from spark_embed.compare.verdict import table
    from spark_embed.spark.machine import check_machine

    check_machine()
    result = compare(_reachable(config), steps, given.rounds, folder)
    write_json(path, result)
    write("\n".join([table(result), "", *result["verdict"], f"all of it: {path}"]) + "\n")
    check_vectors(result)


def _parser() -> Parser:
    parser = Parser(
        prog="spark-embed compare",
        description="Run the same images and model through a Spark pipeline as they are usually published, "
        "then with one mistake mended at a time, and at last through the job; each step is a program of "
        "20 to 40 lines in spark_embed/compare/steps. Takes the options of the job, too "
        "(spark-embed --help): --input_dir, --model_directory, --task classify, ...; of --max_samples images "
        "[400] a slow step gets a quarter.",
        epilog="exit codes: as spark-embed's; 7: a step has other vectors than the job",
        allow_abbrev=False,
    )
    parser.add_argument("--output", default=_FILE, help=f"file for the figures, or a folder [{_FILE}]")
    parser.add_argument("--only", help="names of steps, comma-separated; the job is always the last [all]")
    parser.add_argument("--rounds", type=_count, default=3, help="how often each step is run [3]")
    return parser


def _find_output(output: str) -> tuple[str, str]:
    """Return the folder and the path of the file with the figures."""
    if not output.endswith(".json"):
        output = f"{output.rstrip('/')}/{_FILE}"
    folder = folder_path(output.rpartition("/")[0] or ".", "--output")
    return folder, f"{folder}/{output.rpartition('/')[2]}"


def _reachable(config: Config) -> Config:
    """Return the options, with the demo's photos where --input_dir is in a store that cannot be reached.

    Raises:
        SparkEmbedError: it cannot, and there are none.
    """
    from spark_embed.datasets import find_layout
    from spark_embed.spark.s3.s3a import export_s3_environment

    if not is_s3(config.input_dir):
        existing_folder(config.input_dir, "--input_dir")
        return config
    export_s3_environment(config)
    try:
        with impatient():
            find_layout(config)
    except StorageError as exc:
        if not os.path.isdir(_DEMO):
            raise
        logger.warning("%s; the photos of %s are taken instead", exc, _DEMO)
        return config.model_copy(update={"input_dir": os.path.abspath(_DEMO), "layout": "auto"})
    return config


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)
