"""A large image -> a JPEG of at most so many pixels a side; knows no request."""

from __future__ import annotations

import io

from PIL import Image, ImageOps, UnidentifiedImageError

from spark_embed.errors import ImageError, one_line

_QUALITY = 90


def shrink(data: bytes, max_edge: int, max_pixels: int) -> bytes:
    """Return an image as it is, or, if a side of it is longer, as a JPEG whose longer side is `max_edge`.

    EXIF orientation is applied, transparency is composited on white, the first frame counts.

    Raises:
        ImageError: it cannot be decoded; `too_many_pixels`, by its header: nothing is decoded then.
    """
    # Pillow's own guard covers what a GIF or WebP makes it allocate before there is a size. One per process.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError("too_many_pixels", f"{width} x {height} are more than {max_pixels} pixels")
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
    except ImageError:
        raise
    except UnidentifiedImageError as exc:
        raise ImageError("not_an_image", "in no format that Pillow reads") from exc
    except MemoryError as exc:
        raise ImageError("out_of_memory", "while it was made smaller") from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError("too_many_pixels", one_line(exc)) from exc
    except Exception as exc:
        raise ImageError("corrupt", one_line(exc)) from exc
