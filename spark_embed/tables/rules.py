"""What a table should be: the rules of a YAML file, and those that a model's signature implies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spark_embed.errors import ConfigError
from spark_embed.load_config import explain_entry, load_yaml
from spark_embed.models.tabular.signature import Feature, Signature


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnRule(_Strict):
    """What the values of a column should be.

    Attributes:
        type: what each must be read as, by the policy of predictions; None for anything.
        allowed: all values there may be, texts or integers.
        min, max: the least and the greatest number, both allowed.
        nullable: whether some may be missing.
        unique: whether no two may be the same text.
        max_bad_fraction: of rows that may break each of these but `unique`.
    """

    type: Literal["integer", "number", "boolean"] | None = None
    allowed: tuple[int, ...] | tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    nullable: bool = False
    unique: bool = False
    max_bad_fraction: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> ColumnRule:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if self.allowed and (self.type or self.min is not None or self.max is not None):
            raise ValueError("allowed says all: leave type, min and max out")
        return self

    def feature(self, name: str) -> Feature | None:
        """Return what its values are read as; None for anything."""
        if self.allowed:
            return Feature(name, "category", self.allowed, required=not self.nullable)
        is_range = self.min is not None or self.max is not None
        if type_ := self.type or ("number" if is_range else None):
            return Feature(name, type_, required=not self.nullable)
        return None


class Rules(_Strict):
    """What a table should be.

    Attributes:
        min_rows, max_rows: how many rows there should be.
        max_bad_rows_fraction: of rows that may be none, such as those of a CSV with too few fields.
        extra_columns: whether there may be columns that no rule names.
        columns: a rule for each column that must be there.
    """

    min_rows: int = Field(default=1, ge=0)
    max_rows: int | None = None
    max_bad_rows_fraction: float = Field(default=0.0, ge=0, lt=1)
    extra_columns: Literal["allow", "refuse"] = "allow"
    columns: Mapping[str, ColumnRule] = Field(default_factory=dict)

    def also(self, columns: Mapping[str, ColumnRule]) -> Rules:
        """Return these and rules for other columns; where a column has one, what that sets holds."""
        merged = {**columns, **self.columns}
        for name in columns.keys() & self.columns.keys():
            set_here = self.columns[name].model_dump(exclude_unset=True)
            merged[name] = ColumnRule(**{**columns[name].model_dump(exclude_unset=True), **set_here})
        return self.model_copy(update={"columns": merged})


def rules_of(signature: Signature) -> dict[str, ColumnRule]:
    """Return what a model wants of each column that it takes."""
    rules = {}
    for feature in signature.features:
        what = {"allowed": feature.categories} if feature.categories else {"type": feature.type}
        rules[feature.name] = ColumnRule.model_validate({**what, "nullable": not feature.required})
    return rules


def read_rules(path: str) -> Rules:
    """Read rules from a YAML file, here or in S3.

    Raises:
        ConfigError: it cannot be read, or says something that is no rule.
    """
    called = f"--rules {path}"
    values = load_yaml(path, called)
    try:
        return Rules.model_validate(values)
    except ValidationError as exc:
        raise ConfigError(f"{called}: {explain_entry(exc, _names_beside, 'rule')}") from exc


def _names_beside(name: str) -> Iterable[str]:
    return ColumnRule.model_fields if "." in name else Rules.model_fields
