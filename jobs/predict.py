"""The job for spark-submit: `spark-submit jobs/predict.py --input F.csv --output O --model M`: rows' scores.

Thin on purpose, as embed.py.
"""

from spark_embed.cli.task import run

if __name__ == "__main__":
    run(["--task", "predict", "--batch_size", "256"])
