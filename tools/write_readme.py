"""Write the README's tables anew from the code that they describe.

Usage: write_readme.py
"""

from pathlib import Path

from spark_embed.config import options_table
from spark_embed.errors import EXIT_CODES
from spark_embed.models.vision.families import models_table

README = Path(__file__).parent.parent / "README.md"


def exit_codes_table() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def render(text: str) -> str:
    """Return the README's text with every table between its markers renewed."""
    tables = {"models": models_table(), "options": options_table(), "exit_codes": exit_codes_table()}
    for name, table in tables.items():
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{start}\n{table}\n{end}{after}"
    return text


def main() -> None:
    README.write_text(render(README.read_text()))


if __name__ == "__main__":
    main()
