"""The feed, and what reads ahead for it, over references that come without columns."""

from itertools import repeat

from spark_embed.inference import feed
from spark_embed.inference.fetch import read_ahead


def run_feed(references, model, options):
    return feed.run_feed(zip(references, repeat(None), strict=False), model, options)


class ReadAhead(read_ahead.ReadAhead):
    def __init__(self, references, policy):
        super().__init__(zip(references, repeat(None), strict=False), policy)
