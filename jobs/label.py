"""The job for spark-submit: `spark-submit jobs/label.py --input_dir D --output_dir O --model_directory F`.

F is a YAML file that describes a remote API. Thin on purpose: what stands in __main__ is pickled by value, so
everything else is in the package.
"""

import sys

from spark_embed.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
