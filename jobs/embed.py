"""The job for spark-submit: `spark-submit jobs/embed.py --input_dir D --output_dir O`.

Thin on purpose: what stands in __main__ is pickled by value, so everything else is in the package.
"""

from spark_embed.cli.task import run

if __name__ == "__main__":
    run()
