"""What a worker of a cluster costs an hour, out of a file of prices; asks nobody."""

from __future__ import annotations

from spark_embed.aws.emr.cluster_file import Cluster
from spark_embed.errors import ConfigError
from spark_embed.prices import Market, Prices


def worker_price(cluster: Cluster, prices: Prices) -> float:
    """Return USD per hour of one worker instance, the primary node's divided among them.

    The first type of each fleet stands for all of it: which ones come is known later, and to EC2.

    Raises:
        ConfigError: the price of one is not known; which, and where to add it.
    """
    if prices.region != cluster.region:
        raise ConfigError(
            f"{prices.path} has prices of {prices.region}, and the cluster is in {cluster.region}"
        )
    total = 0.0
    for fleet in (cluster.fleets.primary, *cluster.workers):
        counts: dict[Market, int] = {"on_demand": fleet.on_demand, "spot": fleet.spot}
        for market, n_instances in counts.items():
            price = prices.hourly(fleet.types[0], market, emr=True)
            if n_instances and price is None:
                raise ConfigError(prices.say_missing(fleet.types[0], market, emr=True))
            total += n_instances * (price or 0)
    return total / sum(fleet.n_instances for fleet in cluster.workers)
