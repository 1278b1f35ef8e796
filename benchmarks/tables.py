"""--task predict against the loops that people write, over the same table, model and batches.

    python -m benchmarks.tables [N_ROWS [BATCH_SIZE]]

Each is a process of its own: rows a second of all of it, and of its work without its start (imports, JVM,
preflight); the largest memory of the processes together. The loops write id, score and class to parquet.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models/tabular_example"

_LOOP = """
import json, sys, time
started = time.perf_counter()
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, torch
from spark_embed.models.tabular.architectures import make_mlp
kind, path, out, batch_size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
network = make_mlp(10, [32, 16], 1, "relu")
network.load_state_dict(torch.load(sys.argv[5] + "/model.pt", weights_only=True))
network.eval()
torch.set_num_threads(1)  # two that spin for each of many small products take longer
imported = time.perf_counter()

def predict(matrix):
    with torch.inference_mode():
        parts = [torch.sigmoid(network(part)) for part in matrix.split(batch_size)]
    return torch.cat(parts)[:, 0].numpy()

writer = None
def write(ids, scores):
    global writer
    classes = (scores >= .5).astype("i4")
    table = pa.table({"user_id": ids, "prediction_score": scores, "prediction_class": classes})
    writer = writer or pq.ParquetWriter(out, table.schema)
    writer.write_table(table)

def as_matrix(frame):
    matrix = np.column_stack([frame[name] for name in frame.columns[1:]]).astype(np.float32)
    matrix[:, 8:] -= 1
    return torch.from_numpy(matrix)

if kind == "bare":
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(65536 // batch_size * batch_size):
        columns = [column.to_numpy().astype(np.float32) for column in batch.columns[1:]]
        matrix = np.column_stack(columns)
        matrix[:, 8:] -= 1
        write(batch.column(0), predict(torch.from_numpy(matrix)))
elif kind == "pandas":
    for frame in pd.read_csv(path, chunksize=65536 // batch_size * batch_size):
        write(pa.array(frame["user_id"]), predict(as_matrix(frame)))
else:
    class Rows(torch.utils.data.Dataset):
        def __init__(self):
            frame = pd.read_parquet(path)
            self.ids, self.matrix = frame["user_id"].to_numpy(), as_matrix(frame)
        def __len__(self):
            return len(self.ids)
        def __getitem__(self, row):
            return self.ids[row], self.matrix[row]
    torch.multiprocessing.set_sharing_strategy("file_system")  # else each batch that is kept is an open file
    ids, scores = [], []
    with torch.inference_mode():
        for some, rows in torch.utils.data.DataLoader(Rows(), batch_size, num_workers=2):
            ids.append(some); scores.append(torch.sigmoid(network(rows))[:, 0])
    write(pa.array(torch.cat(ids).numpy()), torch.cat(scores).numpy())
writer.close()
print(json.dumps({"start_s": imported - started, "work_s": time.perf_counter() - imported}))
"""


def measured(argv: list[str]) -> tuple[dict[str, float], str]:
    """Run a command; return its seconds, CPU seconds and most memory (PSS) with children, and its output."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = psutil.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    cpu_s: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_full_info().pss for one in family))
            cpu_s |= {one.pid: sum(one.cpu_times()[:2]) for one in family}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        time.sleep(0.2)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{argv[:4]} ended with {process.returncode}")
    return {"total_s": seconds, "cpu_s": sum(cpu_s.values()), "peak_mb": peak / 1e6}, process.stdout.read()


def loop(kind: str, path: Path, out: Path, batch_size: int) -> dict[str, float]:
    argv = [
        sys.executable,
        "-c",
        _LOOP,
        kind,
        str(path),
        str(out / "loop.parquet"),
        str(batch_size),
        str(MODEL),
    ]
    found, said = measured(argv)
    return {**found, "work_s": json.loads(said)["work_s"]}


def ours(path: Path, out: Path, batch_size: int) -> dict[str, float]:
    folder = out / "ours"
    flags = ["--input", path, "--output", folder, "--model", MODEL, "--id_column", "user_id"]
    flags += ["--batch_size", batch_size]
    found, _ = measured([sys.executable, "jobs/predict.py", *map(str, flags)])
    timings = json.loads((folder / "metadata.json").read_text())["timings_s"]
    print("   ", json.dumps(timings))
    before = timings["start"] + timings["preflight"]
    shutil.rmtree(folder)
    return {**found, "work_s": timings["total"] - before}


def engine(path: Path, out: Path, batch_size: int) -> dict[str, float]:
    code = (
        "import sys, time; from spark_embed import BatchInferenceEngine as E; "
        "e = E(sys.argv[1], batch_size=int(sys.argv[2])); s = time.perf_counter(); "
        "e.predict_csv(sys.argv[3], sys.argv[4], 'user_id'); print(time.perf_counter() - s)"
    )
    argv = [sys.executable, "-c", code, str(MODEL), str(batch_size), str(path), str(out / "engine.csv")]
    found, said = measured(argv)
    return {**found, "work_s": float(said.split()[-1])}


def main(n_rows: int = 1_000_000, batch_size: int = 256) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for suffix in ("parquet", "csv"):
            make = ["tools/make_tabular_example.py", "table", out / f"table.{suffix}", n_rows]
            subprocess.run([sys.executable, *map(str, make)], check=True, cwd=ROOT)
        runs = {
            "bare torch loop, parquet": lambda: loop("bare", out / "table.parquet", out, batch_size),
            "DataLoader loop, parquet": lambda: loop("loader", out / "table.parquet", out, batch_size),
            "--task predict, parquet": lambda: ours(out / "table.parquet", out, batch_size),
            "pandas chunks and torch, CSV": lambda: loop("pandas", out / "table.csv", out, batch_size),
            "--task predict, CSV": lambda: ours(out / "table.csv", out, batch_size),
            "BatchInferenceEngine, CSV": lambda: engine(out / "table.csv", out, batch_size),
        }
        for name, run in runs.items():
            found = run()
            print(
                f"{name:<30}{n_rows / found['work_s']:>12,.0f} rows/s of work "
                f"({found['work_s']:.1f} s), {n_rows / found['total_s']:>10,.0f} with its start "
                f"({found['total_s']:.1f} s), {found['cpu_s']:.1f} s of CPU, {found['peak_mb']:,.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
