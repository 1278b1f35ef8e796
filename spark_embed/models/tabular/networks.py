"""A model's file -> a function from a matrix to its raw output, by format; never by unpickling.

Slow to import: of torch and onnxruntime each is imported only where a format needs it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from spark_embed.errors import ModelError, one_line
from spark_embed.models.tabular.exported import check_export
from spark_embed.models.tabular.formats import CONVERT, Format
from spark_embed.models.tabular.signature import Signature

Matrix = npt.NDArray[Any]

Network = Callable[[Matrix, int], Matrix]
"""(n, features) of the signature's dtype, rows of a forward pass -> (n,) or (n, outputs), float32."""

LIBRARY_ERRORS = (RuntimeError, ValueError, KeyError, TypeError, OSError, IndexError, AttributeError)
"""What torch and onnxruntime raise of a model that they cannot load or run."""


def load_network(
    path: str, kind: Format, signature: Signature, architecture: Any, device: str, where: str
) -> Network:
    """Load a model (slow); `architecture` is that of a state dict.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        if kind == "onnx":
            return _load_onnx(path, signature, where)
        return _load_torch(path, kind, signature, architecture, device, where)
    except (*LIBRARY_ERRORS, pickle.UnpicklingError) as exc:
        raise ModelError(f"{where} cannot be loaded as {kind}: {one_line(exc)}") from exc


def _load_torch(
    path: str, kind: Format, signature: Signature, architecture: Any, device: str, where: str
) -> Network:
    import torch

    if kind == "torchscript":
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    elif kind == "torch_export":
        check_export(path, where)
        module = torch.export.load(path).module().to(device)
    else:
        from spark_embed.models.tabular.architectures import make_network

        state = _load_safetensors(path) if kind == "safetensors" else _load_state(path, where)
        module = make_network(architecture, len(signature.features), where)
        module.load_state_dict(state)
        module = module.eval().to(device, getattr(torch, signature.dtype))
    if kind == "torchscript":
        module.eval()

    def run(matrix: Matrix, step: int) -> Matrix:
        with torch.inference_mode():
            rows = torch.from_numpy(matrix).to(device)
            outputs = [_first(module(part)) for part in torch.split(rows, step)]
            found: Matrix = torch.cat(outputs).float().cpu().numpy()
            return found

    return run


def _first(output: Any) -> Any:
    while isinstance(output, tuple | list):
        output = output[0]
    return next(iter(output.values())) if isinstance(output, dict) else output


def _load_safetensors(path: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    state: dict[str, Any] = load_file(path)
    return state


def _load_state(path: str, where: str) -> dict[str, Any]:
    """Load tensors and plain values, and nothing else.

    Raises:
        ModelError: the file holds something else: a module, which would run code.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ModelError(
            f"{where} is a whole pickled module, and loading one runs whatever code it holds; {CONVERT}"
        ) from exc
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise ModelError(f"{where} holds {type(state).__name__} and no state dict of tensors")
    return state


def _load_onnx(path: str, signature: Signature, where: str) -> Network:
    try:
        import onnxruntime
    except ImportError as exc:
        raise ModelError(f"{where} is ONNX: install spark-embed[tables] for onnxruntime") from exc

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Of bytes, and with no folder to look in: what is hashed is all that runs.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    with open(path, "rb") as file:
        content = file.read()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        if "external data" in str(exc).lower():
            raise ModelError(
                f"{where} keeps weights in files beside it, which are not read: save it as one file "
                "(onnx.save_model(onnx.load(path), path, save_as_external_data=False))"
            ) from exc
        raise ModelError(f"{where} cannot be loaded as onnx: {one_line(exc)}") from exc
    inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]
    wanted = {"tensor(float)": np.float32, "tensor(double)": np.float64}.get(inputs[0].type)
    if len(inputs) != 1 or wanted is None:
        shown = ", ".join(f"{one.name}: {one.type}" for one in inputs)
        raise ModelError(f"{where} must take one matrix of floats, and takes {shown}")
    # skl2onnx's classifiers give labels first, and probabilities behind them.
    name = next((one for one in outputs if one.startswith("prob")), outputs[0])

    def run(matrix: Matrix, step: int) -> Matrix:
        outputs = []
        for start in range(0, len(matrix), step):
            part = matrix[start : start + step].astype(wanted, copy=False)
            (output,) = session.run([name], {inputs[0].name: part})
            if isinstance(output, list):  # skl2onnx's ZipMap: a dict for each row
                output = _by_class(output, signature, where)
            outputs.append(np.asarray(output, np.float32))
        return np.concatenate(outputs)

    return run


def _by_class(rows: list[dict[Any, float]], signature: Signature, where: str) -> Matrix:
    """Return the scores of rows in the order of the signature's classes.

    Raises:
        ModelError: the model has other classes.
    """
    if set(rows[0]) != set(signature.classes):
        raise ModelError(
            f"{where} has the classes {list(rows[0])!r}, and its signature says {list(signature.classes)!r}"
        )
    return np.array([[row[one] for one in signature.classes] for row in rows])
