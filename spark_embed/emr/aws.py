"""EMR's API by boto3: one way to call it, and one line with a cure where AWS refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from spark_embed.errors import CloudError, one_line

_DENIED = re.compile(r"not authorized to perform: (?P<action>[\w:]+)(?: on resource: (?P<what>\S+))?")
_MAX_CHARS = 400

# What AWS says -> what to do. The first that is found in "code: message" counts; both come from EMR's API and
# from what it says of a cluster that has ended (ClusterStateChangeReason), whose wording varies.
_CURES: tuple[tuple[str, str], ...] = (
    (
        r"expired|UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch|InvalidSignature|AuthFailure",
        "AWS does not accept these credentials; renew them (aws sts get-caller-identity says whose they are)",
    ),
    (r"Throttling|Rate exceeded|RequestLimitExceeded", "AWS is asked too often; try again in a minute"),
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


def emr_client(region: str, *, is_repeatable: bool = True) -> Any:
    """Return a client of EMR; credentials are found as boto3 finds them.

    Args:
        region: of the cluster.
        is_repeatable: whether a call whose answer did not come may be made again. One that starts a cluster
            may not: EMR takes no token by which it would know it again.

    Raises:
        CloudError: the environment, or the person's AWS files, make none.
    """
    # Imported where it is needed: other commands do not pay for it.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        # Adaptive: EMR throttles all of an account's clients together, and soon.
        # A session of its own: boto3's shared one keeps the credentials that it began with.
        return boto3.Session().client(
            "emr",
            region_name=region,
            config=Config(retries={"mode": "adaptive", "total_max_attempts": 11 if is_repeatable else 1}),
        )
    except (BotoCoreError, ValueError) as exc:
        raise CloudError(f"AWS cannot be asked: {one_line(exc)}") from exc


def call(client: Any, operation: str, **parameters: Any) -> dict[str, Any]:
    """Call an operation of EMR's API, by its name there (RunJobFlow).

    Raises:
        CloudError: AWS refuses or is not there, in one line with what to do.
    """
    from botocore import exceptions, xform_name

    try:
        answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
        return answer
    except exceptions.ClientError as exc:
        error = exc.response.get("Error", {})
        said = explain(str(error.get("Code", "")), str(error.get("Message", "")))
        raise CloudError(f"{operation}: {said}") from exc
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as exc:
        raise CloudError(
            f"{operation}: no AWS credentials; set AWS_PROFILE (aws configure sso, aws sso login), or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is"
        ) from exc
    except exceptions.EndpointConnectionError as exc:
        raise CloudError(
            f"{operation}: AWS cannot be reached ({one_line(exc)}); check the network, and region in the "
            "cluster file"
        ) from exc
    except (exceptions.ReadTimeoutError, exceptions.ConnectionClosedError) as exc:
        raise CloudError(
            f"{operation}: no answer came ({one_line(exc)}); AWS may have done it all the same: look with "
            "'aws emr list-clusters --active' before you try again"
        ) from exc
    except exceptions.BotoCoreError as exc:
        raise CloudError(f"{operation}: {one_line(exc)}") from exc


def explain(code: str, message: str) -> str:
    """Return what AWS says, as one line that ends with what to do where that is known."""
    said = one_line(f"{code}: {message}", _MAX_CHARS)
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation") or _DENIED.search(message):
        return _explain_denial(message, said)
    for sign, cure in _CURES:
        if re.search(sign, said):
            return f"{said.rstrip('. ')}; {cure}"
    return said


def _explain_denial(message: str, said: str) -> str:
    denied = _DENIED.search(message)
    if denied is None:
        return f"{said.rstrip('. ')}; emr/policies/submitter.json allows what these commands need"
    on = f" on {denied['what'].rstrip('.')}" if denied["what"] else ""
    return f"you may not {denied['action']}{on}; emr/policies/submitter.json allows what these commands need"


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
