"""Pillow's many exceptions become `ImageError` here, and only around calls of Pillow; knows no format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from spark_embed.errors import ImageError


@contextmanager
def pillow_errors() -> Iterator[None]:
    """Turn whatever Pillow raises in the block into an `ImageError`.

    Its plugins raise OSError, SyntaxError, ValueError, TypeError, struct.error and about any other exception
    on broken bytes. Code of ours stays out of such a block: its mistakes are bugs and must fail the task.

    Raises:
        ImageError: `out_of_memory`, `too_many_pixels` (Pillow's own guard), else `corrupt`.
    """
    try:
        yield
    except MemoryError as exc:
        raise ImageError("out_of_memory", "while decoding") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError("too_many_pixels", str(exc)) from exc
    except Exception as exc:
        raise ImageError("corrupt", f"{type(exc).__name__}: {exc}") from exc
