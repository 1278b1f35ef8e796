"""Print the nearest neighbours of three photos, from a folder that the job wrote.

Usage: show_neighbours.py OUTPUT_DIR
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

N_PHOTOS = 3
N_NEIGHBOURS = 4


def main() -> None:
    table = pd.read_parquet(Path(sys.argv[1]) / "embeddings.parquet").sort_values("key", ignore_index=True)
    vectors = np.stack(table["embedding"].to_list())
    first_of_each = table.drop_duplicates("caption").index[:N_PHOTOS]
    print("nearest neighbours (cosine), which should be crops of the same photo:")
    for row in first_of_each:
        cosines = vectors @ vectors[row]
        nearest = [i for i in np.argsort(-cosines) if i != row][:N_NEIGHBOURS]
        found = ", ".join(f"{table.caption[i]} {cosines[i]:.2f}" for i in nearest)
        print(f"  {table.caption[row]:20} {found}")


if __name__ == "__main__":
    main()
