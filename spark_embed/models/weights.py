"""The one list of a model's weight files: what is on it is looked at, hashed and loaded, and nothing else.

Knows no network, and no torch: the driver looks at weights, too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

from safetensors import SafetensorError, safe_open

from spark_embed.errors import ModelError, one_line
from spark_embed.models import Recipe
from spark_embed.storage import LFS_POINTER, is_lfs_pointer

# In the order of transformers' _get_resolved_checkpoint_files; pickled ones come last, and only if allowed.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_INDEX = ".index.json"
_PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")

_HASH_CHUNK_BYTES = 1 << 22
_HEAD_BYTES = 64


def choose_weights(
    names: Collection[str], read: Callable[[str], str], config: Mapping[str, Any], recipe: Recipe
) -> list[str]:
    """Return the files of a folder that will be loaded, sorted; it may hold others, of open_clip for example.

    Args:
        names: of the files in the folder.
        read: gives the text of one of them.
        config: its config.json.
        recipe: of the model.

    Raises:
        ModelError: there are none, only pickled ones that the recipe does not allow, or an index names what
            is no safetensors file of this folder.
        OSError, ValueError, StorageError: an index cannot be read.
    """
    wanted = _SAFETENSORS + (_PICKLED if recipe.allow_pickle_weights else ())
    if (named := config.get("transformers_weights")) is not None:  # from transformers 5 on
        if not isinstance(named, str) or not named.removesuffix(_INDEX).endswith(".safetensors"):
            raise ModelError(
                f"--model_directory {recipe.source}: config.json: transformers_weights {named!r} is no "
                "safetensors file"
            )
        _check_named("config.json", named, names, recipe)
        wanted = (named,)
    for name in wanted:
        if name in names:
            return _indexed(name, read(name), names, recipe) if name.endswith(_INDEX) else [name]
    raise _no_weights(names, recipe)


def _indexed(index: str, text: str, names: Collection[str], recipe: Recipe) -> list[str]:
    """Return the files that an index names; transformers would load them from anywhere, and of any kind."""
    where = f"--model_directory {recipe.source}: {index}"
    suffix = ".bin" if index.startswith(_PICKLED[0]) else ".safetensors"
    try:
        shards = sorted(set(json.loads(text)["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ModelError(f"{where} is no index of weights: {one_line(exc)}") from exc
    if not shards:
        raise ModelError(f"{where} is no index of weights: its weight_map is empty")
    for name in shards:
        if not isinstance(name, str) or not name.endswith(suffix):
            raise ModelError(f"{where} names {name!r}, which is no {suffix} file")
        _check_named(index, name, names, recipe)
    return shards


def _check_named(by: str, name: str, names: Collection[str], recipe: Recipe) -> None:
    where = f"--model_directory {recipe.source}: {by} names {name!r}, which is not"
    if os.path.basename(name) != name:
        raise ModelError(f"{where} directly in the folder")
    if name not in names:
        raise ModelError(f"{where} there")


def _no_weights(names: Collection[str], recipe: Recipe) -> ModelError:
    where = f"--model_directory {recipe.source}"
    pickled = sorted(name for name in names if name.endswith(_PICKLE_SUFFIXES))
    if pickled and not recipe.allow_pickle_weights:
        return ModelError(
            f"{where}: only pickled weights ({', '.join(pickled[:3])}); convert them to model.safetensors, "
            "or accept them with --allow_pickle_weights"
        )
    # not downloaded from a hub without the flag, so there may be some
    hint = " or pytorch_model.bin" if recipe.allow_pickle_weights else "; pickled: --allow_pickle_weights"
    return ModelError(f"{where}: no weights in it (model.safetensors{hint})")


def bind_recipe(recipe: Recipe, *, device: str, dtype: str, revision: str | None, sha256: str) -> Recipe:
    """Return the recipe of a model that has been loaded, with all that this has resolved.

    Args:
        recipe: what was asked for.
        device: that it is on, as torch has it.
        dtype: that it is in.
        revision: commit of a hub id.
        sha256: of its weights.

    Raises:
        ModelError: the weights are not those of the run.
    """
    if recipe.weights_sha256 not in (None, sha256):
        raise ModelError(
            f"--model_directory {recipe.source}: the weights of this worker hash to "
            f"{sha256}, those of the run to {recipe.weights_sha256}; "
            "every worker needs the same model"
        )
    return replace(recipe, device=device, dtype=dtype, revision=revision, weights_sha256=sha256)


def find_weights(folder: str, config: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return the paths of the weights in a folder on this machine, each looked at.

    Raises:
        ModelError: as `choose_weights`; or one lies outside the folder, is a Git LFS pointer, or is no whole
            safetensors file.
    """
    where = f"--model_directory {recipe.source}"

    def read(name: str) -> str:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return file.read()

    try:
        names = choose_weights(os.listdir(folder), read, config, recipe)
    except (OSError, ValueError) as exc:
        raise ModelError(f"{where}: its weights cannot be listed: {one_line(exc)}") from exc
    paths = []
    for name in names:
        path = os.path.join(folder, name)
        real = os.path.realpath(path)
        if os.path.dirname(real) not in _homes(folder):
            raise ModelError(f"{where}: {name} is a link to {real}, outside the folder")
        if problem := _problem(path, is_pickled=not name.endswith(".safetensors")):
            raise ModelError(f"{where}: {name} {problem}")
        paths.append(path)
    return paths


def _homes(folder: str) -> tuple[str, ...]:
    """Return where weights may lie: in the folder; of the hub's cache, snapshots/COMMIT links to blobs/."""
    real = os.path.realpath(folder)
    snapshots = os.path.dirname(real)
    if os.path.basename(snapshots) != "snapshots":
        return (real,)
    return real, os.path.join(os.path.dirname(snapshots), "blobs")


def _problem(path: str, *, is_pickled: bool) -> str | None:
    """Say what is wrong with a file of weights, as far as its beginning and its size tell."""
    try:
        with open(path, "rb") as file:
            if is_lfs_pointer(file.read(_HEAD_BYTES)):
                return f"is {LFS_POINTER}"
        if not is_pickled:
            with safe_open(path, "np"):  # the header, and whether all that it announces is there
                pass
    except OSError as exc:
        return f"cannot be read: {one_line(exc.strerror or exc)}"
    except SafetensorError as exc:
        return f"is no whole safetensors file: {one_line(exc)}; was it cut off while it was copied?"
    return None


@contextmanager
def hashed(paths: Sequence[str]) -> Iterator[Future[str]]:
    """Give the sha256, in hex, of files one after the other, made beside a `with` block that loads them.

    Those of the last call are not read again while they are what they were: in preflight a model is loaded in
    more than one precision.

    Raises:
        OSError: one of them cannot be read.
        ValueError: one of them changed meanwhile: what was hashed may not be what was loaded.
    """
    versions = tuple(map(_version, paths))
    with ThreadPoolExecutor(1, "hash weights") as thread:
        digest = thread.submit(_hash, tuple(paths), versions)
        yield digest
        digest.result()
    if tuple(map(_version, paths)) != versions:
        raise ValueError("the weights changed while they were loaded")


def _version(path: str) -> tuple[int, ...]:
    """Return what no file keeps that is written to or replaced."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=1)
def _hash(paths: tuple[str, ...], versions: tuple[tuple[int, ...], ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(_HASH_CHUNK_BYTES):
                digest.update(block)
    return digest.hexdigest()
