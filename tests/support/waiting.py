"""Waiting for what should happen at once."""

import time

PATIENCE_S = 20


def wait_until(is_so, what: str) -> None:
    """Wait for what should happen at once."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)  # else this thread starves the one it waits for: each of its calls gives up the GIL
