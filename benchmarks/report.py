"""Results as JSON and as Markdown; `python -m benchmarks.report` puts the last ones into the documents."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.data import CACHE, REGIMES
from benchmarks.measure import REPOSITORY, Line, Spread, System, ratios

RESULTS = CACHE / "results"
DOCUMENT = REPOSITORY / "docs" / "speed.md"
README = REPOSITORY / "README.md"
PACKAGES = (
    "spark-embed",
    "pyspark",
    "torch",
    "torchvision",
    "transformers",
    "pyarrow",
    "pillow",
    "simplejpeg",
    "numpy",
)

# Load average of the last minute above which a machine is not idle.
MAX_LOAD = 0.5

Result = dict[str, Any]


def describe_machine() -> Result:
    """Return what figures mean nothing without: cores, CPU, versions, date, and whether it was busy."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "cpu_features": _cpu_features(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def is_busy(machine: Result) -> bool:
    """Say whether other work was running before a measurement began: its figures are then worth little."""
    return bool(machine["load_before"] > MAX_LOAD)


def warn_if_busy(machine: Result) -> None:
    if is_busy(machine):
        print(f"warning: load {machine['load_before']}: other work is running here", file=sys.stderr)


def summarize(
    kind: str, lines: Mapping[str, Sequence[Line]], systems: Sequence[System], baselines: Sequence[str]
) -> Result:
    """Return a result: medians and spreads per system, and ratios of the steady rates to the baselines."""
    dtypes = {system.name: system.dtype for system in systems}
    rows = []
    for name, rounds in lines.items():
        present = [baseline for baseline in baselines if baseline in lines]
        rows.append(
            {
                "name": name,
                "dtype": dtypes[name],
                "images_per_s": vars(Spread.of([line.images_per_s for line in rounds])),
                "fixed_s": vars(Spread.of([line.fixed_s for line in rounds])),
                "ratios": {baseline: vars(ratios(lines, name, baseline)) for baseline in present},
                "seconds": [line.seconds for line in rounds],
            }
        )
    sizes = next(iter(lines.values()))[0].sizes
    return {"kind": kind, "sizes": sizes, "n_rounds": len(rounds), "rows": rows}


def write_result(result: Result) -> Path:
    """Write a result where `python -m benchmarks.report` looks for it; replaces the last of its kind."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result['kind']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def markdown(result: Result) -> str:
    """Return a result's table with a line about the machine."""
    table = {"noop": _noop_table, "memory": _memory_table}.get(result["kind"], _rates_table)
    return f"{table(result)}\n\n{machine_line(result['machine'])}"


def _rates_table(result: Result) -> str:
    baselines = list(result["rows"][0]["ratios"])
    heads = ["system", "dtype", "images/s", *(f"of {name}" for name in baselines), "fixed seconds"]
    lines = [_title(result), "", table_row(heads), table_row(["---"] * len(heads))]
    for row in sorted(result["rows"], key=lambda row: -row["images_per_s"]["median"]):
        spreads = [Spread(**row["ratios"][name]).text(2) for name in baselines]
        rate, fixed = Spread(**row["images_per_s"]).text(0), Spread(**row["fixed_s"]).text(1)
        lines.append(table_row([row["name"], row["dtype"], rate, *spreads, fixed]))
    return "\n".join(lines)


def _noop_table(result: Result) -> str:
    lines = [
        f"**Arrow result and bookkeeping**, {result['dim']} floats a row, local[1] to a noop sink, "
        f"{result['n_rounds']} rounds of {result['sizes'][0]:,} and {result['sizes'][1]:,} rows:",
        "",
        table_row(["what", "microseconds a row"]),
        table_row(["---", "---"]),
    ]
    lines += [table_row([row["name"], Spread(**row["us_per_row"]).text(2)]) for row in result["rows"]]
    return "\n".join(lines)


def _memory_table(result: Result) -> str:
    return "\n".join(
        [
            "**Memory of a worker**, resident, shared pages included; the tiny model:",
            "",
            table_row(["what", ""]),
            table_row(["---", "---"]),
            table_row([f"most over {result['n_images']:,} images", f"{result['peak_bytes'] / 1e6:,.0f} MB"]),
            table_row(["growth after about the first thousand of them", f"{result['growth']:.1%}"]),
            table_row(
                [
                    f"most over {result['n_large'] // 2} photos of 24 megapixels in a row",
                    f"{result['peak_bytes_large'] / 1e6:,.0f} MB",
                ]
            ),
        ]
    )


def _title(result: Result) -> str:
    regime = REGIMES[result["kind"].removeprefix("peers-")]
    size = f"{regime.n_bytes / 1000:.0f} KB" if regime.n_bytes else "quality 90"
    return (
        f"**{regime.name}-bound**: {regime.width}x{regime.height} JPEGs ({size}), model {regime.model}, "
        f"{result['n_rounds']} rounds of {result['sizes'][0]:,} and {result['sizes'][1]:,} images; "
        "median (smallest-largest):"
    )


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine_line(machine: Result) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    features = f" ({', '.join(machine['cpu_features'])})" if machine["cpu_features"] else ""
    where = f"{machine['cores']} cores of {machine['cpu']}{features}"
    busy = f" Other work was running (load {machine['load_before']})." if is_busy(machine) else ""
    return f"Measured {machine['date']} on {where}; {versions}.{busy}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    flags = (_cpu_info("flags") or "").split()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def _cpu_info(field: str) -> str | None:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else None


def main() -> None:
    """Put the last results into docs/speed.md, those beside peers into the README, too."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    replace_marked(DOCUMENT, "\n\n".join(markdown(result) for result in results))
    beside_peers = [result for result in results if result["kind"].startswith("peers-")]
    replace_marked(README, "\n\n".join(map(_short, beside_peers)))


def _short(result: Result) -> str:
    machine = result["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}"
    return f"{_rates_table(result)}\n\nMeasured {machine['date']} on {where}."


def replace_marked(document: Path, tables: str) -> None:
    """Replace what is between the marks of a document."""
    marked = re.compile(r"(<!-- bench -->\n).*(<!-- /bench -->)", re.DOTALL)
    text = marked.sub(lambda found: f"{found[1]}{tables}\n{found[2]}", document.read_text())
    document.write_text(text)


if __name__ == "__main__":
    main()
