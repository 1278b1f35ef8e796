"""What a run has cost: machines x hours x price; knows no Spark and no price list."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one run has cost.

    Attributes:
        n_machines: hosts that ran tasks of it.
        instance_hours: of these, each for the whole run.
        hourly_price: USD per hour of one.
        cost: USD.
        cost_per_million_images: of this run's rows; None where it had none.
    """

    n_machines: int
    instance_hours: float
    hourly_price: float
    cost: float
    cost_per_million_images: float | None

    def text(self) -> str:
        """Return it for a person, one line."""
        per_million = self.cost_per_million_images
        return f"{hours(self.instance_hours)} at {dollars(self.hourly_price)}: {dollars(self.cost)}" + (
            "" if per_million is None else f", {dollars(per_million)} per million images"
        )


def cost_of(n_machines: int, seconds: float, hourly_price: float, n_rows: int) -> Cost:
    """Return what so many machines cost in so many seconds."""
    instance_hours = n_machines * seconds / 3600
    cost = instance_hours * hourly_price
    return Cost(
        n_machines=n_machines,
        instance_hours=round(instance_hours, 6),
        hourly_price=hourly_price,
        cost=round(cost, 6),
        cost_per_million_images=round(cost / n_rows * 1e6, 6) if n_rows else None,
    )


def hours(number: float) -> str:
    """Return instance-hours as people say them."""
    return f"{number:,.1f} instance-hours" if number >= 1 else f"{number:.2g} instance-hours"


def dollars(amount: float) -> str:
    """Return USD: to the cent, below a dollar to a hundredth of it."""
    if amount >= 1:
        return f"${amount:,.2f}"
    cents, rest = f"{amount:.4f}"[:4], f"{amount:.4f}"[4:].rstrip("0")
    return f"${cents}{rest}"
