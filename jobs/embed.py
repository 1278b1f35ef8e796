"""The job for spark-submit: `spark-submit jobs/embed.py --input_dir D --output_dir O`.

Thin on purpose: what stands in __main__ is pickled by value, so everything else is in the package.
"""

import sys

from spark_embed.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
