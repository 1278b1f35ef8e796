"""metadata.json as a run wrote it that had something of everything."""

TRAFFIC = {
    "worker_requests": 12,
    "worker_bytes": 3_000_000,
    "worker_bytes_per_s": 1_500_000,
    "requests_per_image": 4.0,
    "task_requests": 5,
    "task_bytes": 600,
    "driver_requests": 7,
}

# As a run of before wrote it: keys and values are what other programs read.
WRITTEN = {
    "status": "incomplete",
    "counts": {"rows": 3, "embedded": 1, "errors": 2, "errors_by_code": {"corrupt": 1, "not_found": 1}},
    "this_run": {
        "rows": 2,
        "embedded": 1,
        "errors": 1,
        "errors_by_code": {"corrupt": 1},
        "n_waves": 1,
    },
    "pending": {
        "n_bad_shards": 1,
        "bad_shards": {"b.parquet": "not\nparquet"},
        "n_gone_shards": 0,
        "n_rows_left": 5,
    },
    "error_examples": {
        "corrupt": [{"image_id": "a.parquet#1", "error_detail": "cut off"}],
        "not_found": [{"image_id": "a.parquet#2", "error_detail": None}],
    },
    "model": {"name": "tiny", "embedding_dim": 24, "dtype": "float32", "device": "cpu", "compiled": None},
    "input": {
        "input_dir": "/in",
        "layout": "parquet",
        "n_shards": 2,
        "n_rows": 3,
        "n_bytes": 999,
        "image_column": "jpg",
        "transport": "reference",
        "not_used": {".heic": 2},
    },
    "output": {"output_dir": "/out", "n_files": 1, "n_bytes": 500, "generation": 1, "run_id": "0123abcd"},
    "timings_s": {"embed": 2.0, "total": 5.0},
    "stage_s": {"decode_s": 0.5},
    "throughput": {"images_per_s": 1.5},
    "verdict": {"kind": "decode", "text": "Decoding took long"},
    "parity": {"n_images": 0},
    "n_tasks": 1,
    "batch_size": 8,
    "n_model_loads": 1,
    "versions": {"torch": "2"},
    "config": {"batch_size": 8},
    "started_at": "2026-01-01T00:00:00+00:00",
    "finished_at": "2026-01-01T00:00:05+00:00",
    "traffic": {},
    "n_executors": 2,
    "executors": {
        "a:1": {"n_tasks": 2, "n_rows": 2, "n_model_loads": 1, "devices": ["cuda:0"], "busy_s": 1.5},
        "b:1": {"n_tasks": 1, "n_rows": 1, "n_model_loads": 1, "devices": ["cuda:0"], "busy_s": 0.5},
    },
    "n_rows_again": 1,
    "skew": {"wave": "00000-1", "longest_task_s": 1.5, "median_task_s": 0.5},
    "cost": {
        "n_machines": 2,
        "instance_hours": 1.2,
        "hourly_price": 0.9,
        "cost": 1.08,
        "cost_per_million_images": 1.67,
    },
}
