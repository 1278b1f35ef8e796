"""Which .pt2 files of torch.export hold nothing but a graph and plain tensors; loads none.

`torch.export.load` unpickles what a tensor of a class of its own, a constant object or a sample input asks it
to, and runs compiled code (torch 2.15, torch/export/pt2_archive/_package.py and _export/serde/serialize.py).
The graph itself it evaluates, as sympy does texts: a plain archive still needs --trust_remote_code.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile

from spark_embed.errors import ModelError, one_line

_KNOWN = re.compile(
    r"data/weights/(weight_\d+|\w+_weights_config\.json)|data/constants/(tensor_\d+|\w+_constants_config\.json)"
    r"|data/sample_inputs/\w+\.pt|models/\w+\.json|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)"
)
"""The entries of an archive that are plain, below its one folder."""

_PLAIN_TENSOR = re.compile(r"(weight|tensor)_\d+")


def check_export(path: str, where: str) -> None:
    """Refuse an archive that holds more than a graph and plain tensors.

    Raises:
        ModelError: it does; the text names what.
        OSError, ValueError, zipfile.BadZipFile: it cannot be read.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ModelError(f"{where} has two entries of one name")
        for name in names:
            entry = name.partition("/")[2]
            if not _KNOWN.fullmatch(entry):
                raise ModelError(
                    f"{where} holds {entry!r}, and not only a graph and tensors: it could run code"
                )
            if entry.endswith("_config.json"):
                for tensor in json.loads(archive.read(name))["config"].values():
                    plain = _PLAIN_TENSOR.fullmatch(str(tensor["path_name"]))
                    if tensor["use_pickle"] is not False or not plain:
                        raise ModelError(f"{where} holds pickled tensors ({entry}), which could run code")
            elif entry.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except (pickle.UnpicklingError, RuntimeError, EOFError) as exc:
                    raise ModelError(
                        f"{where} holds a pickle ({entry}), which could run code: {one_line(exc, 100)}"
                    ) from exc
