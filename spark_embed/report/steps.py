"""compare.json, field by field: the steps of a comparison, from a baseline to the job itself."""

from __future__ import annotations

from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from spark_embed.errors import ConfigError, one_line
from spark_embed.storage import read_text

Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Step(BaseModel):
    """A step: one program over the images.

    Attributes:
        mistake: what people write, and why it is slow; empty for the last.
        cure: what the next step does instead.
        images_per_s: of each round.
        cpu_s: seconds by process, of the whole run.
        jvm_python_mb: between the JVM and Python; None where it is not known.
        min_cosine: smallest with the vectors of the last step, of `n_compared`.
        memory_mb: (second, MB) of its processes together.
        stage_s: seconds by stage, of all threads, where they are known.
    """

    name: str
    title: str
    mistake: str = ""
    cure: str = ""
    program: str = ""
    n_images: int
    images_per_s: Annotated[tuple[Speed, ...], Field(min_length=1)]
    cpu_s: dict[str, Amount] = {}
    peak_mb: Amount | None = None
    jvm_python_mb: Amount | None = None
    n_model_loads: int | None = None
    n_output_files: int | None = None
    gpu: dict[str, float | None] | None = None
    min_cosine: float | None = None
    n_compared: int = 0
    memory_mb: tuple[tuple[Amount, Amount], ...] = ()
    stage_s: dict[str, Amount] = {}

    @property
    def speed(self) -> float:
        """Images a second, the median of the rounds."""
        return median(self.images_per_s)

    def gains_on(self, other: Step) -> list[float]:
        """Return how many times as fast as another it was in each round, both in the same one."""
        return [own / its for own, its in zip(self.images_per_s, other.images_per_s, strict=False)]


class Machine(BaseModel):
    """What it ran on, in words."""

    text: str = ""
    device: str = ""


class ModelName(BaseModel):
    """What the images went through."""

    name: str = ""
    kind: str = ""


class Photos(BaseModel):
    """What went through it: the folder, its rows and their bytes."""

    root: str = ""
    n_rows: int = 0
    n_bytes: int = 0


class Comparison(BaseModel):
    """compare.json, as far as a report needs it; the steps go from the baseline to the job itself."""

    product: Literal["spark_embed_compare"]
    format: Literal[1]
    started_at: str = ""
    machine: Machine = Machine()
    model: ModelName = ModelName()
    input: Photos = Photos()
    n_rounds: int = 1
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    verdict: tuple[str, ...] = ()


def read_comparison(path: str) -> Comparison:
    """Read compare.json.

    Raises:
        ConfigError: there is no such file, or it is none.
        StorageError: it cannot be read.
    """
    text = read_text(path)
    if text is None:
        raise ConfigError(f"{path}: there is no such file; give an --output_dir, or a compare.json")
    try:
        return Comparison.model_validate_json(text)
    except ValidationError as exc:
        where = exc.errors()[0]
        raise ConfigError(
            f"{path}: is no compare.json of this version: "
            f"{'.'.join(map(str, where['loc']))}: {one_line(where['msg'])}"
        ) from exc
