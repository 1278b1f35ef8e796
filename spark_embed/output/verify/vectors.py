"""Vectors that no model should have given: none at all, NaN, zeros, of another length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Positions = npt.NDArray[np.int64]


def find_bad_vectors(column: pa.Array, length: int) -> dict[str, Positions]:
    """Return the positions of bad vectors in a list column, by what is wrong with them; only what there is.

    Args:
        column: lists of floats.
        length: that each must have.
    """
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    found = {
        "null": np.flatnonzero(lengths < 0),
        f"not of length {length}": np.flatnonzero((lengths >= 0) & (lengths != length)),
    }
    if length:
        whole = np.flatnonzero(lengths == length)
        vectors = column if len(whole) == len(column) else column.take(pa.array(whole))
        # A null inside a vector becomes NaN here.
        values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), length)
        for name, positions in _find_bad_values(values).items():
            found[name] = whole[positions]
    return {name: positions for name, positions in found.items() if len(positions)}


def _find_bad_values(values: npt.NDArray[np.floating]) -> dict[str, Positions]:
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", values, values)  # one pass without a copy: nearly all are good
        odd = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    is_finite = np.isfinite(values[odd]).all(axis=1)
    is_zero = ~values[odd].any(axis=1)
    return {"not finite": odd[~is_finite], "all zero": odd[is_zero]}
