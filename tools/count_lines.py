"""Count files and lines of Python by room of spark_embed and of its tests; with another checkout, beside it.

Usage: count_lines.py [folder of the other checkout, as it was before]
"""

import argparse
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
TREES = ("spark_embed", "tests")
TOP_FILES = "(top files)"

Row = tuple[str | int, ...]


def count(root: Path) -> tuple[Counter[str], Counter[str]]:
    """Return files and lines of each room: the first folder below a tree, or its top files."""
    files, lines = Counter[str](), Counter[str]()
    for tree in TREES:
        for path in sorted((root / tree).rglob("*.py")):
            folders = path.relative_to(root / tree).parts[:-1]
            room = f"{tree}/{folders[0] if folders else TOP_FILES}"
            files[room] += 1
            lines[room] += len(path.read_bytes().splitlines())
    return files, lines


def tabulate(roots: list[Path]) -> list[Row]:
    """Return a row for each room, for each tree and for all: its name, then files and lines of each root."""
    counts = [table for root in roots for table in count(root)]
    rooms = sorted({room for table in counts for room in table})
    rows: list[Row] = []
    for tree in TREES:
        rooms_of_tree = [room for room in rooms if room.startswith(f"{tree}/")]
        rows += [(room, *(table[room] for table in counts)) for room in rooms_of_tree]
        rows.append((tree, *(sum(table[room] for room in rooms_of_tree) for table in counts)))
    rows.append(("total", *(table.total() for table in counts)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("before", nargs="?", type=Path, help="folder of another checkout, to compare with")
    before = parser.parse_args().before
    if before and not (before / TREES[0]).is_dir():
        parser.error(f"{before}: holds no {TREES[0]}")
    header: Row = ("room", "files", "lines")
    if before:
        header = ("room", "files before", "lines before", "files", "lines")
    rows = [header, *tabulate([before, ROOT] if before else [ROOT])]
    width = max(len(str(row[0])) for row in rows)
    for room, *numbers in rows:
        cells = [f"{number:>{len(str(name))}}" for number, name in zip(numbers, header[1:], strict=True)]
        print(f"{room!s:<{width}}", *cells, sep="  ")


if __name__ == "__main__":
    main()
