"""A folder's model.py -> an instance of its ModelImpl; what its code raises is told with file and line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import module_from_spec
from itertools import count
from types import CodeType, ModuleType
from typing import Any, Protocol

from spark_embed.errors import ModelError, RowError, one_line
from spark_embed.models.directory.contract import CODE_CLASS, CODE_FILE, METHODS

_numbers = count(1)


class ModelImpl(Protocol):
    """What a folder's class has. Before `load` it is given folder, config, weights, device and dtype."""

    def load(self) -> None:
        """Load the network; once."""

    def warmup(self) -> None:
        """Run it once, where the first time takes longer than others."""

    def batch_size(self) -> int:
        """Return how many rows `encode` takes at most."""

    def batch_wait_s(self) -> float:
        """Return how long a service waits for a batch to fill."""

    def encode(self, batch: list[dict[str, Any]]) -> list[Any]:
        """Return a vector, or labels with scores, for each row."""


class _Loader(SourceFileLoader):
    """Compiles the source each time: a .pyc goes with a file of the same second and size, too."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


class FolderCode:
    """The code of a folder: where it is, and what is said of its exceptions."""

    def __init__(self, folder: str, source: str) -> None:
        self.source = source
        self._folder = folder
        self._where = f"--model_directory {source}: "

    def make(self, given: Mapping[str, Any]) -> ModelImpl:
        """Import model.py, make a `ModelImpl` and set what it is given as attributes.

        Raises:
            ModelError: the code cannot be imported, or is not what it should be.
        """
        with self.errors(f"{CODE_FILE} cannot be imported"):
            module = self._import()
        made = getattr(module, CODE_CLASS, None)
        if not isinstance(made, type):
            raise ModelError(f"{self._where}{CODE_FILE} has no class {CODE_CLASS}")
        missing = [f"{name}()" for name in METHODS if not callable(getattr(made, name, None))]
        if missing:
            raise ModelError(f"{self._where}{CODE_FILE}: {CODE_CLASS} has no {', '.join(missing)}")
        with self.errors(f"{CODE_CLASS}() cannot be made, without arguments"):
            impl: ModelImpl = made()
            for name, value in given.items():
                setattr(impl, name, value)
        return impl

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn whatever the folder's code raises in the block into a `ModelError`.

        Raises:
            ModelError: with file and line of the folder's code.
        """
        try:
            yield
        except (Exception, SystemExit) as exc:
            told = f"{self._where}{what}: {self._place(exc)}: {describe(exc)}{self._hint(exc)}"
            raise ModelError(told) from exc

    def _import(self) -> ModuleType:
        """Import model.py as a module of a package of its own, which is the folder.

        So `from . import x` works, nothing of it can be taken for another module, and sys.path stays.
        """
        package = ModuleType(f"model_folder_{next(_numbers)}")
        package.__path__ = [self._folder]
        sys.modules[package.__name__] = package
        loaders = (_Loader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
        for folder, _, _ in os.walk(self._folder):
            sys.path_importer_cache[folder] = FileFinder(folder, *loaders)
        name, path = f"{package.__name__}.model", os.path.join(self._folder, CODE_FILE)
        loader = _Loader(name, path)
        module = module_from_spec(ModuleSpec(name, loader, origin=path))
        module.__file__ = path
        sys.modules[name] = module
        loader.exec_module(module)
        return module

    def _place(self, exc: BaseException) -> str:
        """Return the innermost line of the folder's own code that an exception came through."""
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(exc.__traceback__)]
        if isinstance(exc, SyntaxError) and exc.filename:
            places.append((exc.filename, exc.lineno))
        own = [place for place in places if place[0].startswith(f"{self._folder}/")]
        path, line = own[-1] if own else (CODE_FILE, None)
        name = os.path.relpath(path, self._folder) if own else path
        return f"{name}:{line}" if line else name

    def _hint(self, exc: BaseException) -> str:
        name = exc.name if isinstance(exc, ModuleNotFoundError) and exc.name else ""
        is_beside = name and os.path.exists(os.path.join(self._folder, f"{name}.py"))
        return f"; it is a file of this folder: from . import {name}" if is_beside else ""


@contextmanager
def row_errors() -> Iterator[None]:
    """Turn whatever `encode` raises in the block into a `RowError`.

    Raises:
        RowError: `model_error`.
        MemoryError, RuntimeError: memory is what was missing, or CUDA: no later row could be computed either.
    """
    from spark_embed.models.backoff import is_out_of_memory  # torch

    try:
        yield
    except RowError:
        raise
    except (Exception, SystemExit) as exc:
        if is_out_of_memory(exc) or "CUDA error" in str(exc):
            raise
        raise RowError("model_error", describe(exc)) from exc


def describe(exc: BaseException) -> str:
    """Return an exception's type and text, as one line."""
    text = one_line(exc)
    return text if text == type(exc).__name__ else f"{type(exc).__name__}: {text}"
