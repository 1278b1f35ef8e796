"""How an option is declared, and what people read of it: its heading, what it does, its default; has none."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

GROUPS = (
    "Input",
    "Images",
    "Urls",
    "Model",
    "Labels and texts",
    "Parity",
    "Output",
    "Run",
    "AWS",
    "Tables",
)
"""Headings of --help and of docs/options.md, in their order."""


def option(default: Any, group: str, description: str, **limits: Any) -> Any:
    """Return a field of options, under a heading of `GROUPS`, with what it does and pydantic's limits."""
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


def split_names(value: object) -> object:
    """Return the names of a text with commas between them; anything else as it is."""
    return (
        tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
    )


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]


def group_of(field: FieldInfo) -> str:
    """Return the heading of an option."""
    extra = field.json_schema_extra
    return str(extra["group"]) if isinstance(extra, dict) else ""


def describe_option(field: FieldInfo) -> str:
    """Return what an option does, with the values that it may have where they are few."""
    choices = getattr(field.annotation, "__args__", ())
    text = field.description or ""
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"{text} ({', '.join(choices)})"
    return text


def default_text(field: FieldInfo, *, plain: bool = False) -> str:
    """Return an option's default as people read it, in Markdown unless `plain`."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return "none" if plain else ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if plain else f"`{text}`"
