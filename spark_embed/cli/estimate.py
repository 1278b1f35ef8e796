"""The flags of `spark-embed estimate`, beside those of the job, and what its price is; starts no Spark."""

from __future__ import annotations

import argparse
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from spark_embed.config import Config
from spark_embed.errors import ConfigError
from spark_embed.flags import Parser
from spark_embed.load_config import conf_folder
from spark_embed.prices import read_prices

_FOLDER = "spark_embed-estimate-"


@dataclass(frozen=True)
class EstimateOptions:
    """What is asked for.

    Attributes:
        n_workers: machines of the run; None for as many as there are here.
        instance: their kind, if that gives the price.
        n_samples: images to embed for it.
        is_json: whether to print a JSON object.
        is_here: whether the sample's output goes to a temporary folder of this machine.
    """

    n_workers: int | None
    instance: str | None
    n_samples: int
    is_json: bool
    is_here: bool

    def hourly_price(self, config: Config) -> tuple[float | None, str]:
        """Return USD per hour of a machine, None if nobody asks, and what it is the price of.

        Raises:
            ConfigError: the kind's price is not known, or there are two.
        """
        if self.instance is None:
            return config.hourly_price, ""
        if config.hourly_price is not None:
            raise ConfigError("--instance and --hourly_price: give one of them")
        prices = read_prices(str(conf_folder() / "prices.yaml"))
        price, what = prices.hourly(self.instance, emr=True), "with EMR's charge"
        if price is None:
            price, what = prices.hourly(self.instance), "without EMR's charge"
        if price is None:
            raise ConfigError(f"--instance: {prices.say_missing(self.instance)}")
        return price, (
            f"{self.instance} on demand in {prices.region}, {what}, by {prices.path} of {prices.date}; "
            "the speed is that of the machines here"
        )


def read_estimate_flags(argv: Sequence[str]) -> tuple[EstimateOptions, list[str]]:
    """Return what is asked for, and the flags of a job over the sample.

    Raises:
        ConfigError: a flag is wrong.
    """
    parser = Parser(
        prog="spark-embed estimate",
        description="Embed some hundred images, and say how long the whole run takes and what it costs. "
        "Takes the options of the job, too (spark-embed --help): --input_dir, --model_directory, ...",
        epilog="exit codes: as spark-embed's",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=_count, help="machines of the run [as many as here]")
    parser.add_argument("--instance", help="their kind, priced in conf/prices.yaml; or --hourly_price")
    parser.add_argument("--samples", type=_count, default=200, help="images to embed for it [200]")
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")
    parser.add_argument(
        "--output_dir",
        help="folder that the workers reach, too; a folder in it is made and deleted [a temporary one here]",
    )
    given, others = parser.parse_known_args(argv)
    place = os.path.join(given.output_dir or tempfile.gettempdir(), f"{_FOLDER}{uuid.uuid4().hex[:12]}")
    options = EstimateOptions(
        given.workers, given.instance, given.samples, given.json, is_here=given.output_dir is None
    )
    return options, [*others, "--output_dir", place]


def as_sample(config: Config) -> Config:
    """Return the options of a run over a sample: without those of its end, and of its output.

    Raises:
        ConfigError: the model is a remote API: the sample would be paid for, and its answers thrown away.
    """
    from spark_embed.models.registry import REMOTE, find_kind  # slow: numpy

    if find_kind(config) == REMOTE:
        raise ConfigError(
            f"--model_directory {config.model_directory}: a remote API is not estimated: each image of the "
            "sample would be paid for; --dry_run asks about one, and requests_per_s and prices say the rest"
        )
    ends = dict.fromkeys(("max_hours", "max_cost", "output_files", "max_error_fraction"))
    return config.model_copy(update={**ends, "overwrite": False, "prune": False, "retry_errors": False})


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)
