"""`spark-embed report`: an output folder or a compare.json -> a page, Markdown and JSON; starts no Spark."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spark_embed.cli.commands import Write
from spark_embed.errors import ConfigError, SparkEmbedError
from spark_embed.flags import Parser
from spark_embed.output.folder import Output, note_extra
from spark_embed.storage import folder_path, is_file, write_json, write_text

if TYPE_CHECKING:
    from spark_embed.search.error_pictures import ErrorPictures

logger = logging.getLogger(__name__)

RUN_REPORT = "run_report.html"
_PICTURES_S = 30.0  # for all of them: servers may be slow


def run_report(argv: Sequence[str], write: Write) -> None:
    """Write the report of a run or of a comparison.

    Raises:
        SparkEmbedError: as `read_run_facts` and `read_comparison`; or a file cannot be written.
    """
    parser = Parser(
        prog="spark-embed report",
        description="Write a run, whatever its state, or a comparison as one HTML page that needs nothing "
        "else, and the same as Markdown; of a run as JSON, too. The page has pictures of rows with errors.",
        epilog="exit codes: 0 written; 2 no such folder or file, or none of ours; 4 a file cannot be read or "
        "written; 6 the state of the folder is broken",
        allow_abbrev=False,
    )
    parser.add_argument("what", metavar="OUTPUT_DIR", help="the --output_dir of a run, or a compare.json")
    parser.add_argument("--to", metavar="FILE", help=f"the page, *.html [in OUTPUT_DIR: {RUN_REPORT}]")
    given = parser.parse_args(argv)
    if given.to is not None and not given.to.endswith(".html"):
        raise ConfigError(f"--to {given.to}: must end in .html; .md and .json are written beside it")
    is_comparison = given.what.endswith(".json") and is_file(given.what)
    for path in _compare(given.what, given.to) if is_comparison else _run(given.what, given.to):
        write(f"{path}\n")


def _compare(path: str, to: str | None) -> list[str]:
    from spark_embed.report.comparison import report_comparison
    from spark_embed.report.markdown import to_markdown
    from spark_embed.report.page import to_html
    from spark_embed.report.steps import read_comparison

    stem = (to or path).rpartition(".")[0]
    page = report_comparison(read_comparison(path))
    write_text(f"{stem}.html", to_html(page))
    write_text(f"{stem}.md", to_markdown(page))
    return [f"{stem}.html", f"{stem}.md"]


def _run(root: str, to: str | None) -> list[str]:
    from spark_embed.report.markdown import to_markdown
    from spark_embed.report.page import to_html
    from spark_embed.report.read_run import read_run_facts
    from spark_embed.report.run import report_run

    output = Output(folder_path(root, "OUTPUT_DIR"))
    stem = (to or os.path.join(output.root, RUN_REPORT)).removesuffix(".html")
    with _pictures(output.root) as read_picture:
        found = read_run_facts(output, read_picture)
    page = report_run(found)
    if os.path.dirname(stem) == output.root:
        for ending in (".html", ".md", ".json"):
            note_extra(output, os.path.basename(stem) + ending)
    write_text(f"{stem}.html", to_html(page))
    write_text(f"{stem}.md", to_markdown(page))
    write_json(f"{stem}.json", found.to_dict())
    return [f"{stem}.html", f"{stem}.md", f"{stem}.json"]


@contextmanager
def _pictures(root: str) -> Iterator[Callable[[str, int], bytes | None]]:
    """Yield what reads small pictures of rows, and knows their data set only when it is first asked."""
    made: list[ErrorPictures | None] = []
    until = time.monotonic() + _PICTURES_S

    def read(shard: str, shard_row: int) -> bytes | None:
        from spark_embed.search.error_pictures import ErrorPictures
        from spark_embed.search.pictures import Pictures

        try:
            if not made:
                made.append(ErrorPictures(Pictures(root)))
        except SparkEmbedError as exc:
            logger.info("no pictures of rows with errors: %s", exc)
            made.append(None)
        return made[0].read(shard, shard_row) if made[0] and time.monotonic() < until else None

    try:
        yield read
    finally:
        if made and made[0]:
            made[0].close()
