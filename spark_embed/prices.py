"""What machines cost, out of a dated file that people edit (conf/prices.yaml); knows no run and no cloud."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spark_embed.errors import ConfigError, one_line

Market = Literal["on_demand", "spot"]
Price = Annotated[float, Field(gt=0)]


class InstancePrice(BaseModel):
    """USD per hour of one machine: on demand, what EMR charges besides, and on the spot market."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ec2: Price | None = None
    emr: Annotated[float, Field(ge=0)] | None = None
    spot: Price | None = None


class Prices(BaseModel):
    """The prices of a file.

    Attributes:
        date: when they were looked up.
        region: where they hold.
        instances: by kind of machine, such as g5.xlarge.
        path: of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: date
    region: str
    instances: dict[str, InstancePrice]
    path: str

    def hourly(self, instance: str, market: Market = "on_demand", *, emr: bool = False) -> float | None:
        """Return USD per hour of one machine, None if it is not known.

        Args:
            instance: its kind.
            market: on which it is bought.
            emr: with what EMR charges besides.
        """
        known = self.instances.get(instance, InstancePrice())
        machine = known.spot if market == "spot" else known.ec2
        service = known.emr if emr else 0.0
        return None if machine is None or service is None else machine + service

    def say_missing(self, instance: str, market: Market = "on_demand", *, emr: bool = False) -> str:
        """Return the line for a price that `hourly` does not know: what is missing, and where to add it."""
        known = self.instances.get(instance, InstancePrice())
        wanted = ["spot" if market == "spot" else "ec2", *(["emr"] if emr else [])]
        missing = [name for name in wanted if getattr(known, name) is None]
        example = ", ".join(f"{name}: USD" for name in missing)
        return (
            f"{self.path} (of {self.date}, {self.region}) has no {' and no '.join(missing)} price of "
            f"{instance}: add {instance}: {{{example}}} there, or give --hourly_price"
        )


def read_prices(path: str) -> Prices:
    """Read a file of prices, from this machine.

    Raises:
        ConfigError: there is none, or it holds something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
        return Prices.model_validate({**values, "path": path})
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValidationError as exc:
        error = exc.errors()[0]
        place = ".".join(map(str, error["loc"]))
        raise ConfigError(f"{path}: {place}: {error['msg']}, not {one_line(error['input'], 40)!r}") from exc
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as exc:  # TypeError: no mapping
        raise ConfigError(
            f"{path}: is no file of prices such as conf/prices.yaml: {one_line(exc, 120)}"
        ) from exc
