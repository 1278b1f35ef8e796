"""How pending rows become waves."""

from collections import deque

import pyarrow as pa

from spark_embed.datasets.shards import Shard
from spark_embed.datasets.units import take_wave, units_of

SCHEMA = pa.schema([])


def test_of_very_many_small_shards_a_wave_has_as_many_as_spark_finds_in_seconds():
    shards = [Shard(f"{i}.parquet", 1000, 10, SCHEMA, f"{i}.parquet") for i in range(50_000)]
    queue = deque(units_of(shards))
    waves = []
    while queue:
        waves.append(take_wave(queue, 10**9))
    assert [len(wave) for wave in waves] == [20_000, 20_000, 10_000]
    assert [unit.shard for wave in waves for unit in wave] == shards
