"""The comparison of services as tables, as a picture, and against what is promised.

Usage: python -m benchmarks.service_report: puts the last result into docs/service-speed.md and its SVG
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from benchmarks.data import CACHE
from benchmarks.measure import REPOSITORY, Spread
from benchmarks.report import Result, machine_line, replace_marked, table_row

RESULT = CACHE / "service" / "result.json"
DOCUMENT = REPOSITORY / "docs" / "service-speed.md"
PICTURE = DOCUMENT.with_suffix(".svg")

OURS = "spark_embed"
CAPACITY = "64 clients"
OVERLOAD = "120% load"

Round = dict[str, Any]


def bare_rate(one: Round) -> float:
    """Return the images a second of the faster of the two bare loops."""
    return max(one["bare"]["serial"], one["bare"]["ahead"])


def of_case(
    result: Result, service: str, case: str, value: Callable[[Round, Round], float | None]
) -> Spread | None:
    """Return a value of (round, case) over the rounds; None where no round has one."""
    found = [value(one, one["services"][service][case]) for one in result["rounds"]]
    there = [number for number in found if number is not None]
    return Spread.of(there) if there else None


def check(result: Result) -> Iterator[tuple[str, Spread | None, float, bool]]:
    """Yield each promise: its words, what was measured of it, its bound, and whether the median keeps it."""
    services = result["rounds"][0]["services"]

    def promise(
        words: str, case: str, bound: float, value: Callable[[Round, Round], float | None], *, at_least: bool
    ) -> tuple[str, Spread | None, float, bool]:
        found = of_case(result, OURS, case, value)
        kept = found is None or (found.median >= bound if at_least else found.median <= bound)
        return words, found, bound, kept

    yield promise(
        "images/s at 64 clients, of the bare loop: at least",
        CAPACITY,
        0.9,
        lambda one, case: case["answered_per_s"] / bare_rate(one),
        at_least=True,
    )
    for peer in services:
        if peer != OURS:
            yield promise(
                f"images/s at 64 clients, of {peer}'s: more than",
                CAPACITY,
                1.0,
                lambda one, case, peer=peer: (
                    case["answered_per_s"] / one["services"][peer][CAPACITY]["answered_per_s"]
                ),
                at_least=True,
            )
    yield promise(
        "p99 at 80 % load, in forward passes of a full batch: at most",
        "80% load",
        3.0,
        lambda one, case: case["p99_s"] / one["bare"]["forward_s"],
        at_least=False,
    )
    yield promise(
        "p50 of one client, ms above the bare call: at most",
        "1 clients",
        3.0,
        lambda one, case: 1000 * (case["p50_s"] - one["bare"]["call_s"]),
        at_least=False,
    )
    yield promise(
        "goodput at 120 % load, of capacity: at least",
        OVERLOAD,
        0.9,
        lambda one, case: case["answered_per_s"] / one["services"][OURS][CAPACITY]["answered_per_s"],
        at_least=True,
    )
    yield promise(
        "refusals at 120 % load, p99 in ms: at most",
        OVERLOAD,
        20.0,
        lambda one, case: _ms(case["refused_p99_s"]),
        at_least=False,
    )
    yield promise(
        "memory after 120 % load, of that before: at most",
        OVERLOAD,
        1.05,
        lambda one, case: case["memory_bytes"][1] / case["memory_bytes"][0],
        at_least=False,
    )


def markdown(result: Result) -> str:
    """Return the tables: what is promised, the closed loop, the open loop, the machine."""
    return "\n\n".join([_promises(result), _closed(result), _open(result), _where(result)])


def _promises(result: Result) -> str:
    lines = [_head("what", "bound", "measured", "")]
    for words, found, bound, kept in check(result):
        lines.append(
            table_row([words, f"{bound:g}", found.text(2) if found else "none", "" if kept else "**missed**"])
        )
    return "\n".join(lines)


Column = tuple[str, Callable[[Round, Round], float | None], int]
"""Its head, its value of (round, case), digits after the point."""

_CPU: Column = ("CPU ms an image", lambda _, case: 1000 * case["cpu_s"], 1)
_FAILED: Column = ("failed", lambda _, case: case["n_failed"], 0)
_GENERATOR: Column = ("generator's CPU %", lambda _, case: 100 * case["generator_share"], 1)
_LATENCIES: tuple[Column, ...] = (
    ("p50 ms", lambda _, case: _ms(case["p50_s"]), 1),
    ("p99 ms", lambda _, case: _ms(case["p99_s"]), 1),
)
_CLOSED: tuple[Column, ...] = (
    ("images/s", lambda _, case: case["answered_per_s"], 1),
    ("of the bare loop", lambda one, case: case["answered_per_s"] / bare_rate(one), 2),
    _CPU,
    *_LATENCIES,
    ("refused", lambda _, case: case["n_refused"], 0),
    _FAILED,
    _GENERATOR,
)
_OPEN: tuple[Column, ...] = (
    ("sent/s", lambda _, case: case["offered_per_s"], 1),
    ("answered/s", lambda _, case: case["answered_per_s"], 1),
    *_LATENCIES,
    ("refused", lambda _, case: case["n_refused"], 0),
    ("within ms (p99)", lambda _, case: _ms(case["refused_p99_s"]), 1),
    _FAILED,
    ("MB before", lambda _, case: case["memory_bytes"][0] / 1e6, 0),
    ("after", lambda _, case: case["memory_bytes"][1] / 1e6, 0),
    _GENERATOR,
)


def _closed(result: Result) -> str:
    bare = [one["bare"] for one in result["rounds"]]
    medians = {name: statistics.median(one[name] for one in bare) for name in bare[0]}
    best = statistics.median(map(bare_rate, result["rounds"]))
    lines = ["**Closed loop**, each client asks again once it is answered:\n", _case_head("clients", _CLOSED)]
    for name, words in (("ahead", "bare loop, decoding ahead"), ("serial", "bare loop, one after the other")):
        cpu_ms = 1000 * medians[f"{name}_cpu_s"]
        shown = [f"{medians[name]:.1f}", f"{medians[name] / best:.2f}", f"{cpu_ms:.1f}"]
        lines.append(table_row([words, "", *shown, *[""] * 5]))
    lines.append(table_row(["bare call", *[""] * 4, f"{1000 * medians['call_s']:.1f}", *[""] * 4]))
    return "\n".join([*lines, *_case_rows(result, "clients", _CLOSED)])


def _open(result: Result) -> str:
    title = "**Open loop**, a constant rate, which is a share of that service's own images/s at 64 clients:\n"
    return "\n".join([title, _case_head("load", _OPEN), *_case_rows(result, "load", _OPEN)])


def _case_head(word: str, columns: Sequence[Column]) -> str:
    return _head("service", word, *(name for name, _, _ in columns))


def _case_rows(result: Result, word: str, columns: Sequence[Column]) -> Iterator[str]:
    """Yield a row for each service and case of the word; medians of the rounds."""
    for service, cases in result["rounds"][0]["services"].items():
        for case in cases:
            if case.endswith(word):
                found = [(of_case(result, service, case, value), digits) for _, value, digits in columns]
                texts = [f"{spread.median:,.{digits}f}" if spread else "-" for spread, digits in found]
                yield table_row([service, case.split()[0], *texts])


def _where(result: Result) -> str:
    loads = ", ".join(f"{one['load_before']:.1f}" for one in result["rounds"])
    forward = Spread.of([1000 * one["bare"]["forward_s"] for one in result["rounds"]])
    return (
        f"Batches of up to {result['batch_size']}, whose forward pass takes {forward.text(0)} ms; "
        f"{len(result['rounds'])} rounds, {result['seconds']:g} s a case; load of the machine before "
        f"each: {loads}. "
        f"{', '.join(result['peers'])}. {machine_line(result['machine'])}"
    )


def picture(result: Result) -> str:
    """Return the images/s at 64 clients and the p99 at 80 % load as bars, SVG."""
    services = result["rounds"][0]["services"]
    rates = {"bare loop": statistics.median(map(bare_rate, result["rounds"]))}
    p99_ms: dict[str, float] = {}
    for name in services:
        rate = of_case(result, name, CAPACITY, lambda _, case: case["answered_per_s"])
        p99 = of_case(result, name, "80% load", lambda _, case: _ms(case["p99_s"]))
        rates |= {name: rate.median} if rate else {}
        p99_ms |= {name: p99.median} if p99 else {}
    parts = [*_bars("images/s at 64 clients", rates, 0), *_bars("p99 in ms at 80 % load", p99_ms, 150)]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 290" font-family="sans-serif" '
            'font-size="13">',
            '<rect width="640" height="290" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _bars(title: str, values: dict[str, float], top: int) -> Iterator[str]:
    yield f'<text x="10" y="{top + 20}" font-weight="bold">{escape(title)}</text>'
    longest = max(values.values(), default=1.0)
    for number, (name, value) in enumerate(values.items()):
        y = top + 30 + 26 * number
        width = 440 * value / longest
        colour = "#c75b12" if name == OURS else "#9aa5b1"
        yield f'<text x="10" y="{y + 15}">{escape(name)}</text>'
        yield f'<rect x="120" y="{y}" width="{width:.0f}" height="20" fill="{colour}"/>'
        yield f'<text x="{126 + width:.0f}" y="{y + 15}">{value:.0f}</text>'


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _head(*cells: str) -> str:
    return f"{table_row(cells)}\n{table_row(['---'] * len(cells))}"


def main() -> None:
    result = json.loads(RESULT.read_text())
    replace_marked(DOCUMENT, f"![]({PICTURE.name})\n\n{markdown(result)}")
    PICTURE.write_text(picture(result))


if __name__ == "__main__":
    main()
