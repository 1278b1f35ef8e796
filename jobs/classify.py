"""The job for spark-submit: `spark-submit jobs/classify.py --input_dir D --output_dir O`: labels of images.

Thin on purpose, as embed.py.
"""

import sys

from spark_embed.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["--task", "classify", *sys.argv[1:]]))
