"""A large image -> a JPEG of at most so many pixels a side; knows no request."""

from __future__ import annotations

import io

from PIL import Image, ImageOps, UnidentifiedImageError

from spark_embed.errors import ImageError, one_line

_QUALITY = 90


def shrink(data: bytes, max_edge: int) -> bytes:
    """Return an image as it is, or, if a side of it is longer, as a JPEG whose longer side is `max_edge`.

    EXIF orientation is applied, transparency is composited on white, the first frame counts.

    Raises:
        ImageError: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) <= max_edge:
                return data
            image.draft("RGB", (max_edge, max_edge))
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            upright = upright.convert("RGB")
            upright.thumbnail((max_edge, max_edge), Image.Resampling.LANCZOS)
            made = io.BytesIO()
            upright.save(made, "JPEG", quality=_QUALITY)
            return made.getvalue()
    except UnidentifiedImageError as exc:
        raise ImageError("not_an_image", "in no format that Pillow reads") from exc
    except Image.DecompressionBombError as exc:
        raise ImageError("too_many_pixels", one_line(exc)) from exc
    except Exception as exc:
        raise ImageError("corrupt", one_line(exc)) from exc
