"""The process of the page: one socket, one event loop, and its end by a signal."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from spark_embed.errors import one_line
from spark_embed.search.explore.app import make_app
from spark_embed.search.explore.door import is_loopback
from spark_embed.search.explore.explorer import Explorer
from spark_embed.search.index import Index
from spark_embed.service.realtime.connections import Server, address_of, listen, make_config

logger = logging.getLogger(__name__)

_DRAIN_S = 5.0


def explore(index: Index, given: Mapping[str, Any], host: str, port: int) -> None:
    """Show a page until SIGTERM or SIGINT.

    Ends the process itself: the interpreter would wait for threads that may never end.

    Raises:
        ConfigError: the address cannot be used.
    """
    listening = listen(host, port)
    is_open = not is_loopback(listening.getsockname()[0])
    ended: list[BaseException | None] = []

    def on_end(exc: BaseException | None) -> None:
        ended.append(exc)
        server.should_exit = True

    app = make_app(Explorer(index, given), is_open=is_open, on_end=on_end)
    server = Server(make_config(app, _DRAIN_S))
    if is_open:
        logger.warning(
            "--host %s: whoever reaches this address sees the data set, and needs no password", host
        )
    logger.info("look at %s; Ctrl-C ends it", address_of(listening))
    server.run(sockets=[listening])
    for exc in ended:
        logger.error("%s", one_line(exc), exc_info=exc)
    logging.shutdown()
    os._exit(1 if ended else 0)
