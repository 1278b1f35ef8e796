"""The real-time service against mosec, LitServe and the bare loop: the same model, photos and load.

Usage: python -m benchmarks.service [--rounds N] [--seconds S] [--only NAMES] [--model NAME]

Needs Go, for the load generator. docs/service-speed.md explains; `python -m benchmarks.service_report` writes
the last result into it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from spark_embed.models.device import resolve_dtype

from benchmarks.data import CACHE, FEED, make_model
from benchmarks.load import attack, make_vegeta
from benchmarks.measure import REPOSITORY, environment
from benchmarks.peers import VENVS, venv_python
from benchmarks.report import describe_machine, warn_if_busy
from benchmarks.service_report import RESULT, markdown

PHOTOS = CACHE / "photos"
LOGS = CACHE / "service"
N_PHOTOS = 128
BATCH_SIZE = 16
DTYPE = resolve_dtype("auto", "cpu")  # the job's here; alone, the service would take float32
MAX_QUEUE_SIZE = 64  # a second of work: with the default, an overload of seconds would refuse nothing
CLIENTS = (1, 8, 64)
LOADS = (0.5, 0.8, 1.2, 2.0)
SKIP_S = 2.0
READY_WITHIN_S = 120

PEERS = ("mosec==0.9.8", "litserve==0.2.19")
PEERS_PYTHON = venv_python("services")

BOUNDARY = "photo"
Body = Callable[[bytes], tuple[str, bytes]]
"""A photo -> Content-Type and body, as that service takes it."""


def as_it_is(photo: bytes) -> tuple[str, bytes]:
    return "image/jpeg", photo


def in_json(photo: bytes) -> tuple[str, bytes]:
    return "application/json", json.dumps({"image": base64.b64encode(photo).decode()}).encode()


def in_form(photo: bytes) -> tuple[str, bytes]:
    head = 'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (
        BOUNDARY.encode(),
        head.encode(),
        photo,
        BOUNDARY.encode(),
    )
    return f"multipart/form-data; boundary={BOUNDARY}", body


@dataclass(frozen=True)
class Service:
    """Something that is measured.

    Attributes:
        command: port, model directory -> what starts it.
        path: where photos are sent to.
        body: how.
    """

    name: str
    command: Callable[[int, Path], list[str | Path]]
    path: str
    body: Body = as_it_is
    environ: tuple[tuple[str, str], ...] = ()


def peer(program: str, *arguments: str) -> list[str | Path]:
    return [PEERS_PYTHON, REPOSITORY / "benchmarks" / "peer_programs" / program, *arguments]


def ours(port: int, model: Path) -> list[str | Path]:
    return [
        *(Path(sys.executable).parent / "spark-embed", "serve", "--model_directory", model),
        *("--port", str(port), "--batch_size", str(BATCH_SIZE), "--dtype", DTYPE),
    ]


OURS = Service(
    "spark_embed", ours, "/infer", environ=(("INFERENCE_SERVER__MAX_QUEUE_SIZE", str(MAX_QUEUE_SIZE)),)
)
SERVICES = (
    OURS,
    Service(
        "mosec",
        lambda port, _: peer(
            "mosec_serve.py",
            *("--address", "127.0.0.1", "--port", str(port)),
            *("--capacity", str(MAX_QUEUE_SIZE), "--timeout", "30000", "--log-level", "warning"),
        ),
        "/inference",
    ),
    Service("LitServe", lambda port, _: peer("litserve_serve.py", str(port)), "/infer", in_form),
)


def make_photos() -> list[Path]:
    """Return the files of the photos; made once."""
    PHOTOS.mkdir(parents=True, exist_ok=True)
    paths = [PHOTOS / f"{number:04d}.jpg" for number in range(N_PHOTOS)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(FEED.image_bytes(number))
    return paths


def make_peers() -> None:
    """Make the peers' venv: they alone, with everything else from this one."""
    done = VENVS / "services" / ".ready"
    if done.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENVS / "services"], check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run(
        [PEERS_PYTHON, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path(own, "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [PEERS_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS], check=True
    )
    done.touch()


def write_targets(service: Service, port: int, photos: list[Path]) -> Path:
    """Write the requests as vegeta reads them: each photo once."""
    folder = LOGS / service.name
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for photo in photos:
        kind, body = service.body(photo.read_bytes())
        path = folder / photo.with_suffix(".body").name
        path.write_bytes(body)
        lines += [
            f"POST http://127.0.0.1:{port}{service.path}",
            f"Content-Type: {kind}",
            f"@{path.resolve()}",
            "",
        ]
    targets = folder / "targets"
    targets.write_text("\n".join(lines))
    return targets


@contextmanager
def running(service: Service, port: int, model: Path) -> Iterator[psutil.Process]:
    """Run a service; it ends with this."""
    log = LOGS / f"{service.name}.log"
    environ = {**quiet_environment(), "MODEL_DIRECTORY": str(model), "BATCH_SIZE": str(BATCH_SIZE)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in service.command(port, model)],
            env={**environ, **dict(service.environ)},
            cwd=REPOSITORY,
            stdout=file,
            stderr=file,
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in psutil.wait_procs(family, timeout=5)[1]:
            child.kill()


def ask(service: Service, port: int, photo: Path) -> np.ndarray:
    """Return the vector of a photo."""
    kind, body = service.body(photo.read_bytes())
    request = urllib.request.Request(f"http://127.0.0.1:{port}{service.path}", body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=READY_WITHIN_S) as answer:
        return np.asarray(json.load(answer)["output"][0], dtype=np.float32)


def wait_until_ready(service: Service, process: psutil.Process, port: int, photo: Path) -> np.ndarray:
    """Return the first vector that it answers."""
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            return ask(service, port, photo)
        except OSError:  # nobody listens, or 503: the model is being loaded
            time.sleep(0.5)
    raise SystemExit(f"{service.name} does not answer; see {LOGS / service.name}.log")


def usage(process: psutil.Process) -> tuple[int, float]:
    """Return memory and CPU seconds of a process and all below it; what they share counts once (PSS)."""
    family = [process, *process.children(recursive=True)]
    cpu = [one.cpu_times() for one in family]
    n_bytes = sum(int(one.memory_full_info().pss) for one in family)
    return n_bytes, sum(times.user + times.system for times in cpu)


def quiet_environment() -> dict[str, str]:
    """Return the environment of all: no OpenMP thread spins while it waits, as in the service itself."""
    return {**environment(), "OMP_WAIT_POLICY": "PASSIVE"}


def measure_service(service: Service, model: Path, photos: list[Path], seconds: float) -> dict[str, Any]:
    """Return the figures of all cases of one service, and the vector of the first photo."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    targets = write_targets(service, port, photos)
    cases: dict[str, Any] = {}
    with running(service, port, model) as process:
        vector = wait_until_ready(service, process, port, photos[0])
        attack(targets, 4, 0, clients=32)  # not counted
        for clients in CLIENTS:
            cases[f"{clients} clients"] = _case(process, targets, seconds, clients=clients)
        capacity = cases[f"{CLIENTS[-1]} clients"]["answered_per_s"]
        for load in LOADS:
            cases[f"{load:.0%} load"] = _case(process, targets, seconds, rate=load * capacity)
    for name, case in cases.items():
        print(
            f"  {service.name:12} {name:10} {case['answered_per_s']:7.1f}/s  p50 {_ms(case['p50_s'])} ms  "
            f"p99 {_ms(case['p99_s'])} ms  refused {case['n_refused']} in {_ms(case['refused_p99_s'])} ms  "
            f"failed {case['n_failed']}  generator {case['generator_share']:.1%}",
            file=sys.stderr,
            flush=True,
        )
    return {"cases": cases, "vector": vector}


def _case(process: psutil.Process, targets: Path, seconds: float, **pace: float) -> dict[str, Any]:
    bytes_before, cpu_before_s = usage(process)
    figures = attack(targets, seconds + SKIP_S, SKIP_S, **pace)  # type: ignore[arg-type]
    bytes_after, cpu_after_s = usage(process)
    cpu_s = (cpu_after_s - cpu_before_s) / max(1, figures.pop("n_answered"))
    return {**figures, "cpu_s": cpu_s, "memory_bytes": [bytes_before, bytes_after]}


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def measure_bare(model: Path, seconds: float) -> dict[str, float]:
    """Return what the loop without a service does."""
    command = [sys.executable, "-m", "benchmarks.service_model", model, PHOTOS, BATCH_SIZE, round(seconds)]
    shown = subprocess.run(
        [str(part) for part in command],
        env=quiet_environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(shown.stdout)
    print(
        "  bare loop    " + "  ".join(f"{k} {v:.4g}" for k, v in found.items()), file=sys.stderr, flush=True
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each case")
    parser.add_argument("--model", default="vit-b-32", help="which of benchmarks.data.VISION")
    parser.add_argument("--only", default="", help="how names begin, with commas between")
    options = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    make_vegeta()
    make_peers()
    photos, model = make_photos(), make_model(options.model)
    services = [one for one in SERVICES if one.name.startswith(tuple(options.only.split(",")))]
    machine = describe_machine()
    warn_if_busy(machine)
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        load = os.getloadavg()[0]
        found: dict[str, Any] = {
            "load_before": load,
            "bare": measure_bare(model, options.seconds),
            "services": {},
        }
        vectors = {}
        for service in [*services[number % len(services) :], *services[: number % len(services)]]:
            measured = measure_service(service, model, photos, options.seconds)
            vectors[service.name] = measured.pop("vector")
            found["services"][service.name] = measured["cases"]
        first, *others = vectors.values()
        if any(float(first @ other) < 0.999 for other in others):
            raise SystemExit(f"the services do not answer the same vectors: {list(vectors)}")
        rounds.append(found)
    result = {
        "machine": machine,
        "peers": PEERS,
        "batch_size": BATCH_SIZE,
        "seconds": options.seconds,
        "rounds": rounds,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
