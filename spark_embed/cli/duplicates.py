"""`spark-embed duplicates`: what is in a data set more than once, exactly or nearly, and which to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spark_embed.cli.commands import Write
from spark_embed.cli.lazy_session import LazySession
from spark_embed.cli.search import add_model_flags, import_search, model_options
from spark_embed.config import Config
from spark_embed.flags import Parser
from spark_embed.storage import folder_path

if TYPE_CHECKING:
    from spark_embed.search.duplicates_record import Duplicates


def run_duplicates(argv: Sequence[str], write: Write) -> None:
    """Write the tables of an output folder's duplicates, and say what is in them.

    Raises:
        SparkEmbedError: as `find_duplicates`.
    """
    parser = Parser(
        prog="spark-embed duplicates",
        description="Find the pictures that are in a data set more than once, exactly or nearly, and say of "
        "each cluster which one to keep: all others are near to that one. Changes nothing of the data set; "
        "writes pairs.parquet and clusters.parquet. The same command goes on where it was interrupted.",
        epilog="exit codes: 0 done; 2 nothing is published, or a wrong flag; 4 a file cannot be read or "
        "written; 6 another is at work there, or the folder is not ours",
        allow_abbrev=False,
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="the --output_dir of a run")
    parser.add_argument("--threshold", type=float, default=0.95, help="cosine of two vectors [0.95]")
    parser.add_argument(
        "--keep", metavar="COLUMN", help="keep the row with its largest value [the first row]"
    )
    parser.add_argument("--to", metavar="FOLDER", help="of the tables [OUTPUT_DIR/duplicates]")
    parser.add_argument("--column", metavar="COLUMN", help="of the vectors [the first: embedding]")
    parser.add_argument(
        "--hash_column", metavar="COLUMN", help="a hash of the images' bytes [sha256, sha512, sha1, md5]"
    )
    parser.add_argument(
        "--calibrate", metavar="N", type=int, default=50, help="pictures to make copies of; 0 for none [50]"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    add_model_flags(parser)
    given = parser.parse_args(argv)
    import_search()
    from spark_embed.search.duplicates import DuplicatesOptions, find_duplicates

    options = DuplicatesOptions(
        given.threshold,
        given.keep,
        given.hash_column,
        given.column,
        max(0, given.calibrate),
        model_options(given),
    )
    folder = folder_path(given.output_dir, "OUTPUT_DIR")
    with LazySession(Config(input_dir=folder, output_dir=folder)) as session:
        found, calibration = find_duplicates(given.output_dir, given.to, options, session)
    if given.json:
        shown = {**found.model_dump(exclude={"fingerprint"}), "calibration": calibration}
        write(json.dumps(shown) + "\n")
    else:
        write(_text(found, calibration) + "\n")


def _text(found: Duplicates, calibration: dict[str, Any] | None) -> str:
    from spark_embed.search.calibration import line_of

    unknown = f", {found.n_unknown:,} of which that is not known" if found.n_unknown else ""
    if found.recall is None:
        recall = f"none of {found.n_queries} rows that were compared with all others has a near one"
    elif not found.n_queries:
        recall = "all were compared with all"
    else:
        recall = f"{found.recall:.3f} of the {found.n_true_pairs:,} near ones of {found.n_queries} rows found"
    lines = [
        f"clusters    {found.n_clusters:,} of {found.n_rows:,} rows at a threshold of {found.threshold:g}; "
        f"{found.n_pairs:,} pairs",
        f"could go    {found.n_removable:,} rows: {found.n_exact:,} exact copies, {found.n_near:,} near ones"
        f"{unknown} (by {found.same_bytes_by})",
        f"recall      {recall}",
    ]
    if calibration:
        lines.append(f"threshold   {line_of(calibration, found.threshold)}")
    return "\n".join(lines)
