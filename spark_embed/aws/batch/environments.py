"""What a queue takes its instances from (compute environments, to Batch): their state and their price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spark_embed.aws.batch.api import call, explain
from spark_embed.errors import CloudError, ConfigError
from spark_embed.prices import Market, Prices

_MARKETS: Mapping[str, Market] = {"SPOT": "spot", "EC2": "on_demand"}


def list_environments(client: Any, queue: str) -> list[Mapping[str, Any]]:
    """Return what a queue takes its instances from, in its order.

    Raises:
        CloudError: AWS refuses, or there is no such queue.
    """
    queues = call(client, "DescribeJobQueues", jobQueues=[queue])["jobQueues"]
    if not queues:
        raise CloudError(explain("", f"there is no job queue {queue} in {client.meta.region_name}"))
    order = sorted(queues[0]["computeEnvironmentOrder"], key=lambda one: int(one["order"]))
    names = [one["computeEnvironment"] for one in order]
    found = call(client, "DescribeComputeEnvironments", computeEnvironments=names)["computeEnvironments"]
    by_name = {one["computeEnvironmentArn"]: one for one in found}
    return [by_name[name] for name in names if name in by_name]


def describe_environment(environment: Mapping[str, Any]) -> str:
    """Return a line on what a queue takes instances from."""
    resources = environment.get("computeResources", {})
    state = " ".join(filter(None, map(environment.get, ("state", "status", "statusReason"))))
    return (
        f"{environment['computeEnvironmentName']} ({resources.get('type')}) {state}: "
        f"{resources.get('desiredvCpus', 0)} of {resources.get('maxvCpus')} vCPUs, "
        f"{', '.join(resources.get('instanceTypes', []))}"
    )


def find_price(environments: Sequence[Mapping[str, Any]], region: str, prices: Prices) -> float:
    """Return USD per hour of an instance: the first type, of what comes first in the queue's order.

    Raises:
        ConfigError: its price is not known; which, and where to add it.
    """
    if prices.region != region:
        raise ConfigError(f"{prices.path} has prices of {prices.region}, and the stack is in {region}")
    resources = environments[0]["computeResources"]
    kind, market = resources["instanceTypes"][0], _MARKETS.get(resources["type"], "on_demand")
    price = prices.hourly(kind, market)
    if price is None:
        raise ConfigError(prices.say_missing(kind, market))
    return price
