"""The example table of customers, from a fixed seed."""

import numpy as np
import pandas as pd

RANGES = {
    "age": (18, 79),
    "income": (20_000, 149_999),
    "credit_score": (300, 849),
    "num_purchases": (0, 49),
    "account_age_days": (1, 3_649),
    "avg_transaction": (10.0, 500.0),
    "num_returns": (0, 9),
    "is_premium": (0, 1),
    "region": (1, 4),
    "category_preference": (1, 9),
}


def customers(n_rows: int, seed: int = 0) -> pd.DataFrame:
    """Return `n_rows` customers."""
    random = np.random.default_rng(seed)
    columns = {
        name: random.uniform(low, high, n_rows).round(2)
        if isinstance(low, float)
        else random.integers(low, high, n_rows, endpoint=True)
        for name, (low, high) in RANGES.items()
    }
    return pd.DataFrame({"user_id": [f"{number:07d}" for number in range(n_rows)], **columns})
