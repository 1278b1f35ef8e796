"""compare.json, and texts as data sets have them at their worst."""

HOSTILE = (
    "<script>alert(1)</script><img src=http://example.com/x onerror=alert(2)> \"' | `x` \u202e 🎈 \n"
    "</title></style><!-- ]]> -->" + "漢" * 10_000
)


def step(title, images_per_s, **values):
    return {
        "name": title,
        "title": title,
        "mistake": "Each row loads the model anew.",
        "cure": "One model for each worker.",
        "program": f"steps/{title}.py",
        "n_images": 200,
        "images_per_s": images_per_s,
        "cpu_s": {"driver": 2.0, "jvm": 7.5, "python": 20.0},
        "peak_mb": 1500.0,
        "jvm_python_mb": None,
        "n_model_loads": 2,
        "n_output_files": 1,
        "gpu": None,
        "min_cosine": 0.9999,
        "n_compared": 200,
        "memory_mb": [[second / 4, 800.0 + second] for second in range(400)],
        "stage_s": {"load_s": 2.0, "decode_s": 1.0, "predict_s": 9.0},
        **values,
    }


def comparison(**changes):
    return {
        "product": "spark_embed_compare",
        "format": 1,
        "started_at": "2026-11-26T10:00:00+00:00",
        "machine": {"text": "2 cores", "n_cores": 2, "device": "cpu"},
        "model": {"name": "tiny", "kind": "embedder"},
        "input": {"root": "demo/photos", "n_rows": 200, "n_bytes": 4_000_000},
        "n_rounds": 3,
        "steps": [step("slow", [10.0, 9.0, 11.0]), step("fast", [40.0, 44.0, 42.0])],
        "verdict": ["The job is 4 times as fast."],
        **changes,
    }
