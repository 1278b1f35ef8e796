"""The job for spark-submit: `spark-submit jobs/classify.py --input_dir D --output_dir O`: labels of images.

Thin on purpose, as embed.py.
"""

from spark_embed.cli.task import run

if __name__ == "__main__":
    run(["--task", "classify"])
