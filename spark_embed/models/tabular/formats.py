"""Which format a file of a model is in, told by its content, whatever it is called; loads nothing."""

from __future__ import annotations

import json
import os
import zipfile
from typing import BinaryIO, Literal

from spark_embed.errors import ModelError, one_line

Format = Literal["torchscript", "torch_export", "state_dict", "safetensors", "onnx"]

_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: pickles, one after the other
_PICKLE = b"\x80"
_MAX_HEADER_BYTES = 100_000_000  # of safetensors' own limit


def find_format(path: str, where: str) -> Format:
    """Return the format of a file.

    A torch file that is a zip with data.pkl may be a state dict or a whole module: only its loading tells,
    which builds nothing but tensors.

    Raises:
        ModelError: it is none that is read here; a pickle is refused with what converts it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(64)
        if start.startswith(_ZIP):
            return _format_of_zip(path, where)
        if start.startswith((_OLD_TORCH, _PICKLE)):
            raise ModelError(f"{where} is a pickle, and loading one runs whatever code it holds; {CONVERT}")
        if _is_safetensors(start, file):
            return "safetensors"
        if _is_onnx(start):
            return "onnx"
    raise ModelError(
        f"{where} is no model that is read here: TorchScript, torch.export (.pt2), a state dict, safetensors "
        "or ONNX"
    )


CONVERT = (
    'where you trust it, convert it once, N being the number of features: python -c "import torch; '
    "m = torch.load('model.pt', weights_only=False).eval(); "
    "torch.jit.trace(m, torch.zeros(2, N)).save('traced.pt')\", and name traced.pt as config.json's weights "
    "(a scikit-learn model: skl2onnx)"
)
"""What a person does with a pickled module."""


def _format_of_zip(path: str, where: str) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]  # below one folder
    except zipfile.BadZipFile as exc:
        raise ModelError(f"{where} is no whole file: {one_line(exc)}; was it cut off?") from exc
    if "archive_format" in names:
        return "torch_export"
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return "torchscript"
    if "data.pkl" in names:
        return "state_dict"
    raise ModelError(f"{where} is a zip file, but none that torch writes")


def _is_safetensors(start: bytes, file: BinaryIO) -> bool:
    """Say whether a length and a JSON object come first (github.com/huggingface/safetensors)."""
    n_bytes = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or not 2 <= n_bytes <= min(_MAX_HEADER_BYTES, os.fstat(file.fileno()).st_size):
        return False
    file.seek(8)
    try:
        return isinstance(json.loads(file.read(n_bytes)), dict)
    except ValueError:
        return False


def _is_onnx(start: bytes) -> bool:
    """Say whether a protobuf begins with ir_version, field 1 of ModelProto (onnx.proto), a small number."""
    return len(start) > 2 and start[0] == 0x08 and 1 <= start[1] < 64
