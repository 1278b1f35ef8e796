"""Write the tables of docs/ and CONTRIBUTING.md anew from the code that they describe.

Usage: write_tables.py
"""

import ast
import re
import tomllib
from pathlib import Path

from cost_table import costs_table

from spark_embed.cli.commands import COMMANDS
from spark_embed.config import options_table
from spark_embed.errors import EXIT_CODES
from spark_embed.models.vision.families import models_table
from spark_embed.service.realtime.settings import settings_table

ROOT = Path(__file__).parent.parent


def exit_codes_table() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def commands_table() -> str:
    rows = [
        f"| `spark-embed {name}` | {command.says} |"
        for group in COMMANDS.values()
        for name, command in group.items()
    ]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def rooms_table() -> str:
    """Return a row for each room and each top file, in the order in which they may import one another."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = []
    for name in " | ".join(layers).split(" | "):
        path = ROOT / "spark_embed" / name
        inner = ", ".join(f"`{found.parent.name}`" for found in sorted(path.glob("*/__init__.py")))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        title = f"`{name}/`" if path.is_dir() else f"`{file.name}`"
        rows.append(f"| {title} | {_first_sentence(file)} | {inner} |")
    return "\n".join(["| room | what it is for | rooms in it |", "|---|---|---|", *rows])


def _first_sentence(file: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split())
    return re.split(r"\.(?: |$)", text, maxsplit=1)[0]


DOCUMENTS = {
    ROOT / "docs" / "options.md": {
        "commands": commands_table,
        "options": options_table,
        "exit_codes": exit_codes_table,
    },
    ROOT / "docs" / "deployment.md": {"costs": costs_table},
    ROOT / "docs" / "models.md": {"models": models_table},
    ROOT / "docs" / "service.md": {"settings": settings_table},
    ROOT / "CONTRIBUTING.md": {"rooms": rooms_table},
}


def render(document: Path) -> str:
    """Return a document's text with every table between its markers renewed."""
    text = document.read_text()
    for name, make_table in DOCUMENTS[document].items():
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}\n{make_table()}\n{end}{after}"
    return text


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(render(document))


if __name__ == "__main__":
    main()
