"""The subcommands about tables, of which none starts Spark or loads a model; knows what people type."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from spark_embed.cli.commands import Write
from spark_embed.errors import ConfigError
from spark_embed.flags import Parser

_EXIT_CODES = "exit codes: 0 {}; 2 no such table, or a wrong flag; 4 a file cannot be read; 7 {}"
_NO_FEATURES = ("id", "image_id", "shard", "shard_row", "timestamp")


def run_validate(argv: Sequence[str], write: Write) -> None:
    """Say what is wrong with a table before a run, or with what a run made of it.

    Raises:
        VerifyError: something is wrong.
        SparkEmbedError: as `validate` and `check_predictions`.
    """
    parser = Parser(
        prog="spark-embed validate",
        description="Read a table (CSV, JSONL or parquet, a file or a folder) whole, in flat memory, and say "
        "in a line each which rules it breaks; with --predictions whether each of its rows came out, once.",
        epilog=_EXIT_CODES.format("no rule is broken", "one is"),
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="INPUT", help="a table, here or in S3 (s3://)")
    parser.add_argument("--rules", metavar="YAML", help="columns, types, ranges, row counts: docs/tables.md")
    parser.add_argument("--id_column", metavar="COLUMN", help="never missing, each once")
    parser.add_argument("--signature", metavar="MODEL_DIRECTORY", help="also what this model takes")
    parser.add_argument("--predictions", metavar="OUTPUT_DIR", help="the --output_dir of a run over it")
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    given = parser.parse_args(argv)
    if given.predictions:
        from spark_embed.tables.predictions import check_predictions

        if given.rules or given.signature or not given.id_column:
            raise ConfigError("--predictions: needs --id_column, and neither --rules nor --signature")
        found = check_predictions(given.input, given.predictions, given.id_column)
    else:
        from spark_embed.tables.rules import Rules, read_rules, rules_of
        from spark_embed.tables.validate import validate

        rules = read_rules(given.rules) if given.rules else Rules()
        if given.signature:
            from spark_embed.models.tabular.files import read_config
            from spark_embed.models.tabular.signature import read_signature

            config = read_config(given.signature)
            rules = rules.also(rules_of(read_signature(config, f"--signature {given.signature}")))
        found = validate(given.input, rules, given.id_column)
    write((json.dumps(found.to_dict()) if given.json else found.text()) + "\n")
    found.check()


def run_drift(argv: Sequence[str], write: Write) -> None:
    """Say how far the columns of a table have moved.

    Raises:
        VerifyError: too far, and --on_drift is fail.
        SparkEmbedError: as `find_drift`.
    """
    from spark_embed.tables.drift import find_drift
    from spark_embed.tables.predictions import published_tables

    parser = Parser(
        prog="spark-embed drift",
        description="Compare each column of two tables, or the predictions of two runs: PSI, KS, new values.",
        epilog=_EXIT_CODES.format(
            "said, whatever it is", "with --on_drift fail: a column has drifted, is lost or has new values"
        ),
        allow_abbrev=False,
    )
    for name in ("REFERENCE", "CURRENT"):
        parser.add_argument(name, help="a table, or the --output_dir of a run")
    parser.add_argument("--threshold", type=float, default=0.25, help="a PSI above it is drift [0.25]")
    parser.add_argument("--on_drift", choices=("warn", "fail"), default="warn", help="[warn]")
    parser.add_argument("--id_column", metavar="COLUMN", help="not compared")
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    given = parser.parse_args(argv)
    reference, current = (published_tables(getattr(given, name), name) for name in ("REFERENCE", "CURRENT"))
    if not 0 <= given.threshold < math.inf:
        raise ConfigError(f"--threshold {given.threshold}: must be a number of 0 or more, such as 0.25")
    found = find_drift(reference, current, given.threshold, (*_NO_FEATURES, given.id_column))
    write((json.dumps(found.to_dict()) if given.json else found.text()) + "\n")
    if given.on_drift == "fail":
        found.check()
