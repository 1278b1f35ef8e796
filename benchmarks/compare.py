"""The figures of `make compare` -> docs/compare.md.

Usage: python -m benchmarks.compare [compare.json]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from spark_embed.compare.verdict import table

from benchmarks.measure import REPOSITORY

DOCUMENT = REPOSITORY / "docs/compare.md"


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "demo/compare.json"
    result = json.loads(path.read_text())
    said = "\n".join(f"- {sentence}" for sentence in result["verdict"])
    measured = f"Measured {result['started_at'][:10]}, {result['n_rounds']} rounds."
    text = f"<!-- compare -->\n{table(result)}\n\n{said}\n\n{measured}\n<!-- /compare -->"
    marked = re.compile(r"<!-- compare -->.*<!-- /compare -->", re.DOTALL)
    DOCUMENT.write_text(marked.sub(lambda _: text, DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
