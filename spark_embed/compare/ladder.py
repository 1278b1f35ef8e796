"""The steps in their order: what each does wrong, what the next does instead; knows nothing of figures."""

from __future__ import annotations

from dataclasses import dataclass

from spark_embed.errors import ConfigError

PHOTOS = "photos"
"""No step: makes what the steps embed."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of its program, with dashes.
        title: for people.
        mistake: that it still makes, and its successor does not.
        cure: what the successor does instead.
        is_slow: it would take minutes with all images, and is given fewer.
    """

    name: str
    title: str
    mistake: str
    cure: str
    is_slow: bool = False

    @property
    def module(self) -> str:
        """The module of its program."""
        return f"spark_embed.compare.steps.{self.name.replace('-', '_')}"

    @property
    def program(self) -> str:
        """The path of its program, from the checkout's root."""
        return "spark_embed/pipeline.py" if self is JOB else f"{self.module.replace('.', '/')}.py"


JOB = Step(
    "job",
    "The job",
    "none of the above: workers read the images by reference, and images never enter the JVM",
    "",
)

STEPS = (
    Step(
        "one-partition",
        "One partition for all",
        "coalesce(1), or an input of one file: one task, on one core, does everything.",
        "The partitions stay as they were read.",
        is_slow=True,
    ),
    Step(
        "large-arrow-batches",
        "10,000 rows in an Arrow batch",
        "Spark's default is made for numbers: of decoded images a batch may take 6 GB.",
        "32 rows in an Arrow batch.",
        is_slow=True,
    ),
    Step(
        "model-per-task",
        "The model loaded in every task",
        "The UDF loads the model, so that each task waits for it.",
        "A cache in an importable module: one load in each worker.",
        is_slow=True,
    ),
    Step(
        "garbage-collection",
        "Garbage collection after each task",
        "gc.collect() walks all that torch has imported; empty_cache() gives memory back to take it again.",
        "gc.freeze() once the model is loaded.",
        is_slow=True,
    ),
    Step(
        "one-image-at-a-time",
        "One image at a time",
        "Each image has a forward pass of its own.",
        "32 images in a forward pass.",
        is_slow=True,
    ),
    Step(
        "pixels-as-lists",
        "Pixels as Python lists",
        "Each image becomes 150,528 Python numbers before it is an Arrow array.",
        "The UDF returns numpy arrays.",
        is_slow=True,
    ),
    Step(
        "two-udfs",
        "Decode and predict in two UDFs",
        "Each image crosses from Python to the JVM and back as 600 KB of numbers.",
        "One UDF takes the encoded bytes and gives the vectors.",
        is_slow=True,
    ),
    Step(
        "results-as-lists",
        "Results as lists in a pandas Series",
        "pandas converts each vector to Arrow, number by number.",
        "mapInArrow, with all vectors of a batch as one Arrow array.",
    ),
    Step(
        "all-columns",
        "No column pruning",
        "The images are carried on: through the shuffle, and into the output.",
        "Select what is needed before the UDF.",
    ),
    Step(
        "tiny-files",
        "Many tiny output files",
        "A shuffle to 200 partitions, Spark's usual number, makes 200 tasks and files, however few the rows.",
        "No shuffle after the model: a file for each task.",
    ),
    Step(
        "float32",
        "float32",
        "Twice the bits that the neighbours need, on a device that is fast at half of them.",
        "The precision that keeps parity and is fast on this device.",
    ),
    Step(
        "decode-in-line",
        "Decoding on the predicting thread",
        "While an image is decoded the device waits, and the other way round.",
        "Threads decode the next batch meanwhile.",
    ),
    Step(
        "images-through-the-jvm",
        "Images through the JVM",
        "Spark reads the image column, and sends it to the Python workers.",
        "The job: workers read the images by reference; memory is kept, and tasks are long.",
    ),
    JOB,
)


def choose(only: str | None) -> tuple[Step, ...]:
    """Return the steps with these comma-separated names, all of them without any; the job is always the last.

    Raises:
        ConfigError: no step has such a name.
    """
    names = [name.strip().replace("_", "-") for name in only.split(",")] if only else []
    known = [step.name for step in STEPS]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--only {unknown[0]}: no such step; there are {', '.join(known)}")
    return tuple(step for step in STEPS if not names or step.name in names or step is JOB)
