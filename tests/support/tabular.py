"""Small models of tables in every format, and the policy for one value said once more, in plain Python."""

import json
import math
import struct
from pathlib import Path

import torch

SIGNATURE = {
    "inputs": [
        {"name": "age", "type": "integer"},
        {"name": "income", "type": "number"},
        {"name": "is_premium", "type": "boolean"},
        {"name": "region", "type": "category", "categories": [1, 2, 3, 4]},
        {"name": "plan", "type": "category", "categories": ["free", "gold"]},
    ],
    "output": {"kind": "binary", "activation": "sigmoid"},
}
WEIGHTS = [0.5, -0.001, 1.0, 0.25, -0.75]
BIAS = 0.1
GOOD = {"age": 30, "income": 1200.5, "is_premium": True, "region": 2, "plan": "gold"}


def score_of(row: dict) -> float:
    """What the linear model gives for a good row, by hand."""
    values = [
        row["age"],
        row["income"],
        row["is_premium"],
        row["region"] - 1,
        ["free", "gold"].index(row["plan"]),
    ]
    return 1 / (1 + math.exp(-(sum(w * v for w, v in zip(WEIGHTS, values, strict=True)) + BIAS)))


def linear(weights=WEIGHTS, bias=BIAS) -> torch.nn.Linear:
    layer = torch.nn.Linear(len(weights), 1)
    with torch.no_grad():
        layer.weight[:] = torch.tensor([weights])
        layer.bias[:] = bias
    return layer.eval()


def write_config(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    architecture = {"name": "mlp", "hidden": [], "n_outputs": 1}
    config = {"name": "linear", "architecture": architecture, "signature": SIGNATURE, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(linear()), path)


def write_export(path: Path) -> None:
    rows = torch.export.Dim("rows", min=1)
    torch.export.save(torch.export.export(linear(), (torch.zeros(2, 5),), dynamic_shapes=({0: rows},)), path)


def state_of_mlp() -> dict[str, torch.Tensor]:
    layer = linear()
    return {"0.mean": torch.zeros(5), "0.std": torch.ones(5), "1.weight": layer.weight, "1.bias": layer.bias}


def write_state(path: Path) -> None:
    torch.save({name: one.detach() for name, one in state_of_mlp().items()}, path)


def write_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: one.detach().contiguous() for name, one in state_of_mlp().items()}, path)


def write_onnx(path: Path, external: str | None = None) -> None:
    """Gemm(rows, weight, bias), as protobuf by hand (onnx.proto3): the package onnx is not needed.

    With `external` the weights are in a file of that name beside it.
    """
    weight = _tensor("weight", [5, 1], WEIGHTS)
    if external:
        (path.parent / external).write_bytes(struct.pack("<5f", *WEIGHTS))
        place = _bytes(13, _text(1, "location") + _text(2, external)) + _number(14, 1)
        weight = _number(1, 5) + _number(1, 1) + _number(2, 1) + _text(8, "weight") + place
    bias = _tensor("bias", [1], [BIAS])
    node = _text(1, "rows") + _text(1, "weight") + _text(1, "bias") + _text(2, "score") + _text(4, "Gemm")
    graph = _bytes(1, node) + _text(2, "linear") + _bytes(5, weight) + _bytes(5, bias)
    graph += _bytes(11, _value("rows", 5)) + _bytes(12, _value("score", 1))
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 13)))


def write_zipmap(path: Path, classes: tuple[int, int]) -> None:
    """0.75 for the first class and 0.25 for the second, whatever the row, in dicts as of skl2onnx."""
    weight, bias = _tensor("weight", [5, 2], [0.0] * 10), _tensor("bias", [2], [0.75, 0.25])
    gemm = b"".join(_text(1, one) for one in ("rows", "weight", "bias")) + _text(2, "both") + _text(4, "Gemm")
    labels = _text(1, "classlabels_int64s") + b"".join(_number(8, one) for one in classes) + _number(20, 7)
    zipmap = _text(1, "both") + _text(2, "probabilities") + _text(4, "ZipMap")
    zipmap += _bytes(5, labels) + _text(7, "ai.onnx.ml")
    score = _bytes(2, _bytes(1, _number(1, 1)))
    kind = _bytes(4, _bytes(1, _bytes(5, _number(1, 7) + score)))
    graph = _bytes(1, gemm) + _bytes(1, zipmap) + _text(2, "zipmap") + _bytes(5, weight) + _bytes(5, bias)
    graph += _bytes(11, _value("rows", 5)) + _bytes(12, _text(1, "probabilities") + _bytes(2, kind))
    sets = _bytes(8, _text(1, "") + _number(2, 13)) + _bytes(8, _text(1, "ai.onnx.ml") + _number(2, 1))
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + sets)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _tensor(name: str, shape: list[int], values: list[float]) -> bytes:
    dims = b"".join(_number(1, size) for size in shape)
    return dims + _number(2, 1) + _text(8, name) + _bytes(9, struct.pack(f"<{len(values)}f", *values))


def _value(name: str, width: int) -> bytes:
    dims = _bytes(1, _text(2, "n")) + _bytes(1, _number(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, dims)))
