"""`spark-embed explore`: a page to look at an index with; knows what people type, not how it is shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from spark_embed.cli.commands import Write
from spark_embed.cli.search import add_model_flags, import_search, model_options
from spark_embed.errors import ConfigError
from spark_embed.flags import Parser

_PACKAGES = ("starlette", "uvicorn", "uvloop", "httptools", "orjson", "limits", "python_multipart")


def run_explore(argv: Sequence[str], write: Write) -> None:
    """Show the page until SIGTERM or SIGINT.

    Raises:
        SparkEmbedError: as `Index.open`; or the address cannot be used, or an extra is not installed.
    """
    parser = Parser(
        prog="spark-embed explore",
        description="Look at an index in a browser: find pictures by a picture, by words, by one of them.",
        epilog="exit codes: 0 ended by a signal; 2 no index, a wrong flag, or an address that is in use; 4 a "
        "file cannot be read; 6 the index is of other vectors",
        allow_abbrev=False,
    )
    parser.add_argument("index_dir", metavar="INDEX_DIR", help="of 'spark-embed index', or its OUTPUT_DIR")
    parser.add_argument("--host", default="127.0.0.1", help="to listen at [127.0.0.1: this machine alone]")
    parser.add_argument("--port", type=int, default=8080, help="to listen at; 0: any free one [8080]")
    add_model_flags(parser)
    given = parser.parse_args(argv)
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"explore needs {missing[0]}: pip install 'spark-embed[search,service]'")
    import_search()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see cli/serve.py
    from spark_embed.logs import start_service_logging
    from spark_embed.search.explore.server import explore
    from spark_embed.search.index import Index

    start_service_logging("INFO", "text")
    explore(Index.open(given.index_dir), model_options(given), given.host, given.port)
