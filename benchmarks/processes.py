"""CPU seconds and memory of a command's processes, by what they are (Linux).

Usage: python -m benchmarks.processes COMMAND ...
"""

from __future__ import annotations

import sys

from spark_embed.compare.measuring import Process, cpu_by_kind, watch

__all__ = ["Process", "cpu_by_kind", "watch"]


def main() -> None:
    processes = watch(sys.argv[1:])
    for kind, cpu_s in cpu_by_kind(processes).items():
        peak = max(process.peak_bytes for process in processes if process.kind == kind)
        print(f"{kind}: {cpu_s:.1f} CPU s, at most {peak / 1e6:.0f} MB in one process")


if __name__ == "__main__":
    main()
