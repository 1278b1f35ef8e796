"""One small program per other system, each run by the python of a venv of its own (benchmarks/peers.py)."""
