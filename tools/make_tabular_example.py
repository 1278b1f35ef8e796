"""Makes the example of --task predict: a table at any size, and a small binary model of it, trained here.

    python tools/make_tabular_example.py table FILE.csv|FILE.parquet [N_ROWS]
    python tools/make_tabular_example.py model FOLDER

Both come from fixed seeds: the same rows for the same number, and on one machine the same weights.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

ROWS_PER_CHUNK = 1_000_000
SEED = 20_260_101

# Name, type, lowest and highest value.
COLUMNS = (
    ("age", "integer", 18, 79),
    ("income", "integer", 20_000, 149_999),
    ("credit_score", "integer", 300, 849),
    ("num_purchases", "integer", 0, 49),
    ("account_age_days", "integer", 1, 3_649),
    ("avg_transaction", "number", 10.0, 500.0),
    ("num_returns", "integer", 0, 9),
    ("is_premium", "boolean", 0, 1),
    ("region", "category", 1, 4),
    ("category_preference", "category", 1, 9),
)


def make_chunks(n_rows: int) -> Iterator[pa.Table]:
    """Yield the example table, a million rows at a time; a shorter one is the beginning of a longer one's."""
    for number, first in enumerate(range(0, n_rows, ROWS_PER_CHUNK)):
        random = np.random.default_rng([SEED, number])
        columns = {"user_id": pa.array(np.arange(first, first + ROWS_PER_CHUNK) + 1)}
        for name, kind, low, high in COLUMNS:
            if kind == "number":
                columns[name] = pa.array(np.round(random.uniform(low, high, ROWS_PER_CHUNK), 2))
            else:
                columns[name] = pa.array(random.integers(int(low), int(high) + 1, ROWS_PER_CHUNK))
        yield pa.table(columns).slice(0, n_rows - first)


def write_table(path: Path, n_rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = make_chunks(n_rows)
    if path.suffix == ".parquet":
        first = next(chunks)
        with pq.ParquetWriter(path, first.schema) as parquet:
            parquet.write_table(first)
            for chunk in chunks:
                parquet.write_table(chunk)
        return
    first = next(chunks)
    options = pyarrow.csv.WriteOptions(quoting_style="none", quoting_header="none")
    with pyarrow.csv.CSVWriter(path, first.schema, write_options=options) as writer:
        writer.write_table(first)
        for chunk in chunks:
            writer.write_table(chunk)


def signature() -> dict[str, object]:
    """Return the signature of the example model."""
    inputs: list[dict[str, object]] = []
    for name, kind, low, high in COLUMNS:
        categories = {"categories": list(range(int(low), int(high) + 1))} if kind == "category" else {}
        inputs.append({"name": name, "type": kind, **categories})
    output = {"kind": "binary", "activation": "sigmoid", "classes": [0, 1], "threshold": 0.5}
    return {"inputs": inputs, "output": output, "dtype": "float32"}


def train(folder: Path, n_rows: int = 20_000, n_steps: int = 300) -> None:
    """Train a perceptron to tell who buys again, by a rule with noise, and write model.pt and config.json."""
    import torch

    from spark_embed.models.tabular.architectures import make_mlp
    from spark_embed.models.tabular.features import read_features
    from spark_embed.models.tabular.signature import read_signature

    torch.manual_seed(SEED)
    table = next(make_chunks(n_rows))
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    known = read_signature({"signature": signature()}, "the example")
    rows = torch.from_numpy(read_features(columns, known, n_rows).matrix)
    mean, std = rows.mean(0), rows.std(0)
    scaled = (rows - mean) / std
    rule = scaled @ torch.tensor([0, 0.3, 1.2, 0.8, 0, 0, -0.9, 0.7, 0, 0])
    wanted = (rule + 0.5 * torch.randn(n_rows) > 0).float()
    network = make_mlp(len(COLUMNS), [32, 16], 1, "relu")
    network[0].load_state_dict({"mean": mean, "std": std})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(rows)[:, 0], wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    right = ((network(rows)[:, 0] > 0) == (wanted > 0)).float().mean().item()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "model.pt")
    config = {
        "name": "tabular_example",
        "weights": "model.pt",
        "architecture": {"name": "mlp", "hidden": [32, 16], "n_outputs": 1, "activation": "relu"},
        "signature": signature(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{folder}: model.pt, config.json; right on {right:.1%} of {n_rows:,} rows")


def main(argv: list[str]) -> int:
    if len(argv) in (2, 3) and argv[0] == "table":
        write_table(Path(argv[1]), int(argv[2]) if len(argv) == 3 else 10_000)
    elif len(argv) == 2 and argv[0] == "model":
        train(Path(argv[1]))
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
