"""A driver on a Spark Connect session, in a process of its own: no session with a JVM can be beside it.

`python -m support.connect_driver SHARDS OUTPUT MODEL SERVER_LOG SERVER_PID`, with SPARK_REMOTE set, uses the
session in every way that the tests look at, kills the server in the end, and prints what came of it as JSON.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_embed import image_embedding, pipeline
from spark_embed.cli.main import main
from spark_embed.config import Config
from spark_embed.errors import ModelError, SparkLostError
from spark_embed.run.wave_failure import explain_failure
from spark_embed.spark.context import default_parallelism, is_connect, is_session_there
from spark_embed.spark.jobs import JobGroups
from spark_embed.spark.session import make_session

from support.crashes import OPTIONS, Folder, await_, shard_name
from support.databricks_cluster import refuse
from support.shard_files import break_pages
from support.waiting import PATIENCE_S, wait_until


class Driver:
    """One session, and what is done with it."""

    def __init__(self, shards: str, output: str, model: str, log: str, pid: str) -> None:
        self.shards, self.out, self.log, self.server = Path(shards), Folder(Path(output)), Path(log), int(pid)
        self.options = {"input_dir": shards, "model_directory": model, **OPTIONS}
        self.spark: SparkSession = make_session(Config(**self.options, output_dir=output))

    def config(self, output: Path) -> Config:
        return Config(**self.options, output_dir=str(output))

    def images(self) -> list[str]:
        """The images that went through the model so far."""
        return [line for path in self.log.glob("*.images") for line in path.read_text().splitlines()]

    def after_a_wave(self, out: Folder, happen: Callable[[], None]) -> None:
        """Let something happen once a run has completed a wave, while others are under way."""

        def wait() -> None:
            await_(out.markers, "a wave")
            happen()

        threading.Thread(target=wait, daemon=True).start()

    def command(self) -> int:
        """The command, which finds this session."""
        given = {**self.options, "output_dir": self.out.root}
        return main([f"--{name}={value}" for name, value in given.items()])

    def interrupt(self) -> dict:
        # Who is started in the background ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.after_a_wave(self.out, lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            pipeline.run(self.spark, self.config(self.out.root))
        except KeyboardInterrupt:
            return {"complete": sorted(self.out.complete()), "images": len(self.images())}
        raise AssertionError("nobody interrupted it")

    def add_bad_shard(self) -> int:
        broken = self.shards / shard_name(9)
        broken.write_bytes((self.shards / shard_name(0)).read_bytes())
        break_pages(broken)
        code = self.command()
        broken.unlink()
        return code

    def command_on_serverless(self) -> dict:
        """Run the command as on Databricks' serverless: in another thread, where few settings may be set."""
        from pyspark.sql.connect.conf import RuntimeConf

        given = {**self.options, "output_dir": self.out.root.with_name("serverless"), "max_samples": 20}
        kept = {name: getattr(RuntimeConf, name) for name in ("get", "set", "unset")}
        os.environ["DATABRICKS_RUNTIME_VERSION"] = "client.4.9"
        for name, function in kept.items():
            setattr(RuntimeConf, name, refuse(name, function))
        try:
            with ThreadPoolExecutor(1) as thread:
                code = thread.submit(main, [f"--{name}={value}" for name, value in given.items()]).result()
        finally:
            del os.environ["DATABRICKS_RUNTIME_VERSION"]
            for name, function in kept.items():
                setattr(RuntimeConf, name, function)
        counts = json.loads((given["output_dir"] / "metadata.json").read_text())["counts"]
        return {"code": code, "embedded": counts["embedded"], "goes_on": self.spark.range(3).count() == 3}

    def embed_own_column(self) -> float:
        """Return the smallest cosine of image_embedding's vectors with those of the run."""
        table = self.spark.read.parquet(str(self.shards / shard_name(0)))
        rows = table.select(
            "key", image_embedding("png", model=self.options["model_directory"]).alias("e")
        ).collect()
        vectors = {row["key"]: np.array(row["e"]) for row in rows if row["e"] is not None}
        run = {
            f"0-{row}": vector
            for (shard, row), vector in self.out.vectors().items()
            if shard == shard_name(0)
        }
        assert vectors.keys() == run.keys()
        return min(float(vectors[key] @ run[key] / np.linalg.norm(vectors[key])) for key in run)

    def cancel_a_group(self) -> dict:
        """Cancel one of two jobs that wait: of ours three of four tasks have ended."""
        gate, jobs = self.log / "gate", JobGroups(self.spark)
        os.mkfifo(gate)
        held = os.open(gate, os.O_RDWR)  # so that the tasks' own opening does not wait
        path = str(gate)

        def hold(batches):
            for batch in batches:
                if batch.column(0)[0].as_py() == 3:
                    with open(path, "rb", buffering=0) as file:
                        file.read(1)
                yield batch

        def run(first: int) -> None:
            table = self.spark.range(first, 4, 1, 4 - first).mapInArrow(hold, "id long")
            table.write.format("noop").mode("overwrite").save()

        def run_ours() -> None:
            with jobs.group("ours", 100):
                run(0)

        with ThreadPoolExecutor() as pool:
            theirs, ours = pool.submit(run, 3), pool.submit(run_ours)
            wait_until(lambda: jobs.n_done() == 75, "three of four tasks")
            jobs.cancel()
            failure = ours.exception(PATIENCE_S)
            goes_on = not theirs.done()
            os.write(held, b"xx")
            theirs.result(PATIENCE_S)
        os.close(held)
        return {"failure": str(failure).partition("\n")[0], "goes_on": goes_on, "n_done": jobs.n_done()}

    def fail_with_a_model_error(self) -> str:
        """Return what is said of a wave in which a worker's model fails."""

        def fail(batches):
            raise ModelError("--model_directory /m: other weights than those of the run")

        try:
            self.spark.range(1).mapInArrow(fail, "id long").collect()
        except PySparkException as exc:
            return repr(explain_failure(exc, None, "unused", (), 1))
        raise AssertionError("it did not fail")

    def lose_the_server(self) -> str:
        from pyspark.sql.connect.client.retries import DefaultPolicy

        self.spark.client.set_retry_policies([DefaultPolicy(max_retries=2)])
        lost = Folder(self.out.root.with_name("lost"))
        self.after_a_wave(lost, lambda: os.kill(self.server, signal.SIGKILL))
        try:
            pipeline.run(self.spark, self.config(lost.root))
        except SparkLostError as exc:
            return str(exc)
        raise AssertionError("nobody lost it")


def run(driver: Driver) -> dict:
    return {
        "session": [is_connect(driver.spark), is_session_there(), default_parallelism(driver.spark)],
        "interrupted": driver.interrupt(),
        "code": driver.command(),
        "images": len(driver.images()),
        "bad_shard_code": driver.add_bad_shard(),
        "images_before": len(driver.images()),
        "second_code": driver.command(),
        "images_after": len(driver.images()),
        "serverless": driver.command_on_serverless(),
        "cosine": driver.embed_own_column(),
        "cancelled": driver.cancel_a_group(),
        "model_error": driver.fail_with_a_model_error(),
        "lost": driver.lose_the_server(),
    }


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(run(Driver(*sys.argv[1:]))) + "\n")
