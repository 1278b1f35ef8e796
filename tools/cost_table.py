"""What a million images cost on the machines of conf/prices.yaml, at a speed that is measured or given.

Usage: cost_table.py [IMAGES_PER_S]

Without a speed, the tables of docs/deployment.md. With one, what each machine costs if it is so fast,
which `spark-embed estimate` measures.
"""

import sys
from collections.abc import Iterable

from spark_embed.load_config import conf_folder
from spark_embed.prices import Prices, read_prices

MILLION = 1_000_000

# Images a second and core, by CPU seconds of the workers; docs/deployment.md says how and on what.
PER_CORE = {"the embedded model": 59, "CLIP ViT-B/32": 9.6}

# The one machine of conf/prices.yaml without a GPU, and its cores, as Linux counts them.
CPU_MACHINE, CPU_CORES = "m5.xlarge", 4
RATES = {model: per_core * CPU_CORES for model, per_core in PER_CORE.items()}

NOT_KNOWN = "not known"


def dollars(hourly: float, images_per_s: float) -> str:
    """Return USD for a million images."""
    return f"${MILLION / images_per_s / 3600 * hourly:,.2f}"


def costs_table() -> str:
    """Return what it costs without a GPU, each way, and from which speed on a GPU is cheaper."""
    prices = read_prices(str(conf_folder() / "prices.yaml"))
    return "\n".join([*way_rows(prices), "", *gpu_rows(prices)])


def way_rows(prices: Prices) -> list[str]:
    """Return a row for each way, on the machine without a GPU."""
    on_demand, spot = prices.hourly(CPU_MACHINE), prices.hourly(CPU_MACHINE, "spot")
    emr = prices.hourly(CPU_MACHINE, emr=True)
    ways: tuple[tuple[str, float | None, str], ...] = (
        ("a container on EC2, AWS Batch, nodes of Kubernetes; on demand", on_demand, ""),
        ("the same; spot", spot, ""),
        ("EMR; on demand", emr or on_demand, "" if emr else ", and EMR's charge"),
        ("Databricks; on demand", on_demand, ", and its DBUs"),
    )
    hours = (f"{model}: {MILLION / rate / 3600:.1f} h" for model, rate in RATES.items())
    rows = [
        header(f"on one {CPU_MACHINE}, {CPU_CORES} cores", "a machine-hour", *hours),
        row("a laptop, a machine of your own", *["nothing"] * (1 + len(RATES))),
    ]
    for way, hourly, more in ways:
        found = [NOT_KNOWN if hourly is None else dollars(hourly, rate) + more for rate in RATES.values()]
        rows.append(row(way, NOT_KNOWN if hourly is None else f"${hourly:.3f}{more}", *found))
    if on_demand:
        a_day = f"${24 * on_demand:.2f} a day, whatever comes"
        rows.append(
            row("the service, around the clock; on demand", f"${on_demand:.3f}", *[a_day] * len(RATES))
        )
    return rows


def gpu_rows(prices: Prices) -> list[str]:
    """Return a row for each other machine: its price, and from which speed on it costs less than that one."""
    base = prices.hourly(CPU_MACHINE)
    rows = [header("machine", "on demand, an hour", "spot", *(f"{model}: cheaper from" for model in RATES))]
    for instance in prices.instances:
        hourly, spot = prices.hourly(instance), prices.hourly(instance, "spot")
        if instance != CPU_MACHINE and hourly and base:
            even = [f"{rate * hourly / base:,.0f} images/s" for rate in RATES.values()]
            rows.append(row(instance, f"${hourly:.3f}", f"${spot:.3f}" if spot else NOT_KNOWN, *even))
    return rows


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> str:
    return f"{row(*cells)}\n{row(*['---'] * len(cells))}"


def at_speed(images_per_s: float) -> Iterable[str]:
    """Yield lines: what a million images come to on each machine, if it does so many a second."""
    prices = read_prices(str(conf_folder() / "prices.yaml"))
    yield f"a million images: {MILLION / images_per_s / 60:,.0f} minutes of one machine"
    for instance in prices.instances:
        both = {"on demand": prices.hourly(instance), "spot": prices.hourly(instance, "spot")}
        found = (f"{dollars(one, images_per_s):>9} {market}" for market, one in both.items() if one)
        yield f"  {instance:14}{'  '.join(found)}"


def main() -> None:
    print("\n".join(at_speed(float(sys.argv[1])) if len(sys.argv) > 1 else [costs_table()]))


if __name__ == "__main__":
    main()
