"""The disk, copied in front of each change that a run makes to it."""

import re
import shutil
from pathlib import Path

# Others write these, at times of their own.
NOT_COPIED = shutil.ignore_patterns("lock.json*", "progress.json*")


class Moments:
    """Stands in for a module that changes the disk; copies a folder before some of its functions are called.

    Args:
        module: the real one.
        names: of the functions.
        made: gets what was about to happen, for each copy.
        root: the folder.
        copies: where to; the n-th of `made` is in front of copy n.
        n_of_a_kind: copies of moments that differ only in numbers.
    """

    def __init__(self, module, names, made: list[str], root: Path, copies: Path, n_of_a_kind: int):
        self._module, self._names, self._made = module, names, made
        self._root, self._copies, self._n_of_a_kind = root, copies, n_of_a_kind

    def __getattr__(self, name: str):
        function = getattr(self._module, name)
        if name not in self._names:
            return function

        def watched(path, *others, **options):
            place = str(Path(path).relative_to(self._root))
            # What is half-written is deleted without a trace.
            if not re.search("lock|progress", place) and (name == "replace" or not place.endswith(".tmp")):
                self._copy(f"{name} {place}")
            return function(path, *others, **options)

        return watched

    def _copy(self, moment: str) -> None:
        kind = re.sub(r"[0-9a-f]{8}|\d+", "", moment)
        if sum(re.sub(r"[0-9a-f]{8}|\d+", "", made) == kind for made in self._made) < self._n_of_a_kind:
            shutil.copytree(self._root, self._copies / str(len(self._made)), ignore=NOT_COPIED)
            self._made.append(moment)
