"""The only home of options: names, defaults, limits, and their table in docs/options.md.

load_config.py makes flags, environment variables and YAML keys of them. Every other room receives a finished
`Config` and never asks where a value came from.
"""

from spark_embed.config.model import ModelChoice, ModelOptions, is_api_file
from spark_embed.config.option import GROUPS, Names, default_text, describe_option
from spark_embed.config.run import ENVIRONMENTS, Config, grouped_options, options_table

__all__ = [
    "ENVIRONMENTS",
    "GROUPS",
    "Config",
    "ModelChoice",
    "ModelOptions",
    "Names",
    "default_text",
    "describe_option",
    "grouped_options",
    "is_api_file",
    "options_table",
]
