"""The subcommand that tries a model folder with code; knows what people type, not what is looked at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from spark_embed.cli.commands import Write
from spark_embed.config import ModelOptions
from spark_embed.errors import ModelError
from spark_embed.flags import Parser
from spark_embed.storage import folder_path, is_s3


def run_check_model(argv: Sequence[str], write: Write) -> None:
    """Try a folder with code before a run, in this process, and say what is missing or wrong.

    Raises:
        ModelError: something is.
    """
    parser = Parser(
        prog="spark-embed check-model",
        description="Try a model folder with code (config.json, model.py) before a run, without Spark: runs "
        "its code here, encodes two images alone and together, and says what is missing or wrong.",
        epilog="exit codes: 0 it can be used; 3 something is missing or wrong",
        allow_abbrev=False,
    )
    parser.add_argument("model_directory", metavar="FOLDER", help="here, in S3 (s3://), or a hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    for flag in ("--trust_remote_code", "--allow_pickle_weights"):
        parser.add_argument(flag, action="store_true", help="as for a run")
    options = ModelOptions(**vars(parser.parse_args(argv)))

    from spark_embed.models import Recipe  # numpy, which no other command needs
    from spark_embed.models.registry import MODEL_FOLDER, find_kind

    if find_kind(options) != MODEL_FOLDER:
        raise ModelError(
            f"--model_directory {options.model_directory}: no folder with code: there is no model.py, or its "
            "config.json is that of a network of transformers or timm"
        )
    from spark_embed.models.directory.check import check_model  # torch

    source = options.model_directory or ""
    recipe = Recipe(
        source=folder_path(source, "FOLDER") if is_s3(source) else source,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        allow_pickle_weights=options.allow_pickle_weights,
        kind=MODEL_FOLDER,
    )
    lines = check_model(recipe)
    while True:
        with redirect_stdout(sys.stderr):  # the folder's own code may print
            line = next(lines, None)
        if line is None:
            return
        write(f"{line}\n")
