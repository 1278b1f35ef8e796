"""The job for spark-submit: `spark-submit jobs/label.py --input_dir D --output_dir O --model_directory F`.

F is a YAML file that describes a remote API. Thin on purpose, as embed.py.
"""

from spark_embed.cli.task import run

if __name__ == "__main__":
    run(["--task", "label"])
