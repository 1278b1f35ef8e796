"""EMR's API: its refusals with their cures, and why a cluster has ended."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from spark_embed.aws.calls import Caller, Cures, make_client

# From EMR's API, and from what it says of a cluster that has ended (ClusterStateChangeReason), whose wording
# varies.
_CURES: Cures = (
    (
        r"VcpuLimitExceeded|vCPU limit|vCPU capacity|[Qq]uota|InstanceLimitExceeded|LimitExceeded",
        "your quota of vCPUs is too small for the fleets in the cluster file: take fewer instances, or "
        "ask for more in Service Quotas (EC2: 'G and VT' for GPUs; on demand and spot are two quotas)",
    ),
    (
        r"INSTANCE_FLEET_TIMEOUT|[Ii]nsufficient.{0,20}[Cc]apacity|Spot ?[Cc]apacity|UnfulfillableCapacity",
        "EC2 has not as many of these instances now: add types to the fleet, add subnets in other zones, or "
        "set on_demand in place of spot",
    ),
    (
        r"[Ss]ubnet",
        "check subnets in the cluster file: they must be there, in the cluster file's region, each in a zone "
        "that has the instance types",
    ),
    (
        r"release label|ReleaseLabel|ami version",
        "check release in the cluster file, and whether region has it",
    ),
    (
        r"[Ii]nstance ?[Pp]rofile|JobFlowRole",
        "check instance_profile in the cluster file (aws iam list-instance-profiles)",
    ),
    (
        r"[Ss]ervice ?[Rr]ole|EMR_DefaultRole",
        "check service_role in the cluster file (aws iam list-roles)",
    ),
    (r"[Ii]nstance type", "check types in the cluster file: not every region and zone has every type"),
    (r"[Ss]ecurity ?[Cc]onfiguration", "check security_configuration in the cluster file"),
    (
        r"Cluster id .* is not valid|Specified job flow ID|Specified job flow does not|not a valid cluster",
        "check --cluster_id, and region in the cluster file",
    ),
    (
        r"shutting down|terminated, or finished|may not be modified|not in a state",
        "that cluster has ended; leave out --cluster_id for a new one",
    ),
    (r"[Ss]tep id .* is not valid|StepId", "check --step_id"),
)

_EMR = Caller(
    policy="emr/policies/submitter.json",
    region="region in the cluster file",
    look="aws emr list-clusters --active",
    cures=_CURES,
)

call = _EMR.call
explain = _EMR.explain
# A call that starts a cluster is not repeatable: EMR takes no token by which it would know it again.
emr_client = partial(make_client, "emr")


# Why a cluster ends by itself before its steps have ended (API_ClusterStateChangeReason).
_DEATHS = frozenset(
    ("INTERNAL_ERROR", "VALIDATION_ERROR", "INSTANCE_FAILURE", "INSTANCE_FLEET_TIMEOUT", "BOOTSTRAP_FAILURE")
)
BOOTSTRAP_FAILURE = "BOOTSTRAP_FAILURE"


def has_ended(cluster: Mapping[str, Any]) -> bool:
    """Say whether a cluster, as DescribeCluster has it, takes no steps any more."""
    return str(cluster["Status"]["State"]).startswith("TERMINAT")


def death_reason(cluster: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why a cluster has ended before its steps, as code and message; None if it has not."""
    reason = cluster["Status"].get("StateChangeReason", {})
    code = str(reason.get("Code", ""))
    if has_ended(cluster) and code in _DEATHS:
        return code, str(reason.get("Message", ""))
    return None
