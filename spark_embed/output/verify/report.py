"""What a verification found: so many lines of each kind, however much is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from spark_embed.errors import VerifyError

MAX_LINES = 20
"""Findings of one kind that are told one by one."""

Kind = Literal["state", "files", "rows", "vectors", "errors", "metadata"]


class Finding(NamedTuple):
    """Something that is wrong, in one line."""

    kind: Kind
    text: str


@dataclass
class Report:
    """What is wrong with a data set, and what is worth a note.

    Attributes:
        checked: what was looked at, for people.
    """

    root: str
    checked: str = "nothing"
    notes: list[str] = field(default_factory=list)
    _lines: dict[Kind, list[str]] = field(default_factory=dict)
    _counts: Counter[Kind] = field(default_factory=Counter)

    def add(self, findings: Iterable[Finding]) -> None:
        """Take in findings: the first of each kind are kept, the others counted."""
        for kind, text in findings:
            self._counts[kind] += 1
            lines = self._lines.setdefault(kind, [])
            if len(lines) < MAX_LINES:
                lines.append(text)

    @property
    def n_findings(self) -> int:
        """Things that are wrong."""
        return self._counts.total()

    def text(self) -> str:
        """Return the report for a person, a line for each finding."""
        lines = [("note", note) for note in self.notes]
        for kind, found in self._lines.items():
            lines += [(kind, text) for text in found]
            if (n_more := self._counts[kind] - len(found)) > 0:
                lines.append((kind, f"... and {n_more:,} more like these"))
        verdict = f"{self.n_findings:,} findings" if self.n_findings else "nothing is wrong"
        lines.append(("checked", f"{self.checked}: {verdict}"))
        return "\n".join(f"{name:<9}{_printable(text)}" for name, text in lines)

    def check(self) -> None:
        """Do nothing if nothing is wrong.

        Raises:
            VerifyError: something is.
        """
        if self.n_findings:
            raise VerifyError(
                f"{self.root}: {self.n_findings:,} findings; where they do not say what helps, put a copy of "
                "the files back, or embed anew with --overwrite"
            )


def _printable(text: str) -> str:
    """Return a text with names of a data set in it as a terminal can bear it."""
    return "".join(character if character.isprintable() else "?" for character in text)
