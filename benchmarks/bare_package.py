"""Import this before spark_embed's Spark-free rooms on a machine that has no pyspark.

The package's __init__ names its public functions, and imports pyspark with them. Here an empty package of
the same name takes its place, unless the real one is imported already.
"""

import sys
import types
from pathlib import Path

if "spark_embed" not in sys.modules:
    package = types.ModuleType("spark_embed")
    package.__path__ = [str(Path(__file__).parent.parent / "spark_embed")]
    sys.modules["spark_embed"] = package
