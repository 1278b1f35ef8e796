"""`spark-embed emr ...`: deploy, clusters, steps, logs; knows what people type, aws/emr/ how it is done."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from spark_embed.aws.emr import api, deploy, follow, logs, price, requests
from spark_embed.aws.emr.cluster_file import Cluster, read_cluster
from spark_embed.aws.job_flags import add_price, check_job, flag_value
from spark_embed.cli.aws_commands import Commands, add_commands, run_command, tell
from spark_embed.cli.commands import Write
from spark_embed.errors import CloudError, ConfigError
from spark_embed.flags import Parser

logger = logging.getLogger(__name__)

_CODES = "exit codes: 0 done; 2 a flag or the cluster file is wrong; 4 S3 cannot be used; 11 AWS refuses"
_MODEL_CURE = "'spark-embed emr deploy --model_directory FOLDER' puts it into S3 and prints the path to give"
_ENDS = f"{_CODES}, or (--wait) the step or its cluster failed; 130 Ctrl-C while waiting: the step goes on"


def run_emr(argv: Sequence[str], write: Write) -> None:
    """Do what one of the subcommands says.

    Raises:
        SparkEmbedError: as the epilogs of the subcommands say.
    """
    run_command(
        _parser(),
        argv,
        lambda given: given.command(given, read_cluster(given.cluster), write),
        " ('aws emr list-clusters --active' shows what there is)",
    )


def _deploy(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    checkout = deploy.find_checkout()
    version = deploy.version_of(checkout)
    told = {"release_version": version, "release": requests.release_folder(cluster, version)}
    if given.model_directory:
        told["model_directory"] = deploy.deploy_model(cluster, given.model_directory, send=not given.dry_run)
    if not given.dry_run:
        deploy.deploy_release(cluster, checkout, version)
    tell(told, write)


def _create_cluster(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    request = requests.run_job_flow(cluster, _version(given, cluster))
    if given.dry_run:
        return _tell_call("RunJobFlow", request, write)
    once = api.emr_client(cluster.region, is_repeatable=False)
    cluster_id = api.call(once, "RunJobFlow", **request)["JobFlowId"]
    tell({"cluster_id": cluster_id}, write)
    if given.wait:
        client = api.emr_client(cluster.region)
        follow.follow_cluster(client, cluster_id, logger.info)
    return None


def _submit(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    job = add_price(given.job, partial(price.worker_price, cluster))
    config = check_job(job, _MODEL_CURE)
    version, is_alone = _version(given, cluster), given.cluster_id is None
    step = requests.job_step(
        cluster,
        version,
        job,
        name=f"spark_embed to {config.output_dir}",
        deploy_mode=given.deploy_mode,
        is_alone=is_alone,
    )
    operation, request = (
        ("RunJobFlow", requests.run_job_flow(cluster, version, [step]))
        if is_alone
        else ("AddJobFlowSteps", requests.add_steps(given.cluster_id, [step]))
    )
    if given.dry_run:
        return _tell_call(operation, request, write)
    client = api.emr_client(cluster.region)
    answer = api.call(api.emr_client(cluster.region, is_repeatable=False), operation, **request)
    cluster_id = answer["JobFlowId"] if is_alone else given.cluster_id
    logger.info("sent to cluster %s", cluster_id)  # by now it costs, whatever comes next
    step_id = answer["StepIds"][0] if not is_alone else _step_id(client, cluster_id, None)
    tell({"cluster_id": cluster_id, "step_id": step_id}, write)
    if given.wait:
        follow.follow_step(client, cluster_id, step_id, logger.info)
    return None


def _status(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    client = api.emr_client(cluster.region)
    described = follow.describe_cluster(client, given.cluster_id)
    fleets = api.call(client, "ListInstanceFleets", ClusterId=given.cluster_id).get("InstanceFleets", [])
    steps = api.call(client, "ListSteps", ClusterId=given.cluster_id).get("Steps", [])
    for line in follow.describe(described, fleets, steps):
        write(line + "\n")
    if given.wait:
        step_id = _step_id(client, given.cluster_id, given.step_id)
        follow.follow_step(client, given.cluster_id, step_id, logger.info)


def _logs(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    client = api.emr_client(cluster.region)
    described = follow.describe_cluster(client, given.cluster_id)
    log_uri = described.get("LogUri")
    if not log_uri:
        raise CloudError(f"cluster {given.cluster_id} puts no logs into S3: it was made without a LogUri")
    death = api.death_reason(described)
    if death and death[0] == api.BOOTSTRAP_FAILURE:
        ended, what = follow.ended_s(described["Status"]), f"cluster {given.cluster_id} {death[0]}"
        log = follow.wait_for_log(
            lambda: logs.bootstrap_log(log_uri, given.cluster_id, death[1]), ended, logger.info
        )
    else:
        step = follow.describe_step(
            client, given.cluster_id, _step_id(client, given.cluster_id, given.step_id)
        )
        what = f"step {step['Id']} {step['Status']['State']}"
        log = follow.read_driver_log(log_uri, given.cluster_id, step, logger.info)
    if log is None:
        raise CloudError(f"{what}: no log is in {log_uri} yet; {logs.SHIPPED_EVERY}")
    for text in (log.stdout, log.stderr):
        write(text if text.endswith("\n") or not text else f"{text}\n")
    is_bad = not what.endswith(("COMPLETED", "RUNNING", "PENDING"))
    write(f"{what}, {log.folder}" + (f": {log.error() or log.last_line()}" if is_bad else "") + "\n")


def _cancel(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    client = api.emr_client(cluster.region)
    step_id = _step_id(client, given.cluster_id, given.step_id)
    request = requests.cancel_steps(given.cluster_id, step_id)
    if given.dry_run:
        return _tell_call("CancelSteps", request, write)
    step = follow.describe_step(client, given.cluster_id, step_id)
    mode = flag_value(step["Config"]["Args"], "--deploy-mode")
    if mode == "cluster" and step["Status"]["State"] == "RUNNING":
        raise ConfigError(
            f"step {step_id} runs in cluster mode: EMR would end spark-submit, and the application would go "
            f"on; 'spark-embed emr terminate --cluster_id {given.cluster_id}' ends it with its cluster, "
            "'yarn application -kill' on the primary node by itself"
        )
    for info in api.call(client, "CancelSteps", **request).get("CancelStepsInfoList", []):
        if info.get("Status") == "FAILED":
            raise CloudError(f"CancelSteps: step {step_id}: {info.get('Reason') or 'it cannot be cancelled'}")
    return tell({"cluster_id": given.cluster_id, "step_id": step_id, "state": "CANCEL_PENDING"}, write)


def _terminate(given: argparse.Namespace, cluster: Cluster, write: Write) -> None:
    request = {"JobFlowIds": [given.cluster_id]}
    if given.dry_run:
        return _tell_call("TerminateJobFlows", request, write)
    client = api.emr_client(cluster.region)
    # Of an unknown one TerminateJobFlows says nothing.
    described = follow.describe_cluster(client, given.cluster_id)
    if not api.has_ended(described):
        api.call(client, "TerminateJobFlows", **request)
        described = follow.describe_cluster(client, given.cluster_id)
    return tell({"cluster_id": given.cluster_id, "state": described["Status"]["State"]}, write)


def _tell_call(operation: str, request: requests.Request, write: Write) -> None:
    tell({"operation": operation, "parameters": request}, write)


def _version(given: argparse.Namespace, cluster: Cluster) -> str:
    """Return which release to use: the one that is named, else the newest."""
    named: str | None = given.release_version
    if given.dry_run:  # asks nobody
        version = named or deploy.version_of(deploy.find_checkout())
        if not named:
            logger.info(
                "the release shown is this checkout's, %s; without --dry_run it is the newest deployed",
                version,
            )
        return version
    version = named or deploy.newest_version(cluster)
    deploy.check_version(cluster, version)
    return version


def _step_id(client: Any, cluster_id: str, given: str | None) -> str:
    """Return the step that is named, else the newest of the cluster."""
    if given:
        return given
    steps = api.call(client, "ListSteps", ClusterId=cluster_id).get("Steps", [])  # the newest first
    if not steps:
        raise CloudError(f"cluster {cluster_id} has no steps")
    return str(steps[0]["Id"])


_COMMANDS: Commands = {
    "deploy": (
        _deploy,
        "Put this checkout into S3 as a release: wheel, job, conf, bootstrap; unchanged, not again.",
        _CODES,
    ),
    "create-cluster": (
        _create_cluster,
        "Start a cluster for many steps. It ends when it was idle for idle_timeout_s.",
        _ENDS,
    ),
    "submit": (
        _submit,
        "Run the job as a step: on a cluster of its own, which ends with it, or with --cluster_id on one "
        "that is there. The job's flags come last, behind --.",
        _ENDS,
    ),
    "status": (_status, "Say what a cluster and its steps do, and how far the job is.", _ENDS),
    "logs": (
        _logs,
        "Print the log of a step's driver, or of a bootstrap action that failed; the last line says what was "
        f"wrong. {logs.SHIPPED_EVERY}: this waits for it.",
        _CODES,
    ),
    "cancel": (
        _cancel,
        "Cancel a step. Nothing complete is lost: the same command goes on.",
        _CODES,
    ),
    "terminate": (_terminate, "End a cluster with all that runs on it.", _CODES),
}


def _parser() -> Parser:
    parser = Parser(
        prog="spark-embed emr",
        description="Run the job on Amazon EMR. What the cluster is stands in a file (--cluster); its "
        "comments say what to put there. First 'deploy', then 'submit'; each has a --help.",
        epilog=_ENDS,
        allow_abbrev=False,
    )
    of = add_commands(parser, _COMMANDS)
    for name in of:
        of[name].set_defaults(cluster_id=None)
        says = "the cluster file [emr/cluster.yaml]"
        of[name].add_argument("--cluster", metavar="FILE", default="emr/cluster.yaml", help=says)
    says = "put this model there, too, and print the path for the job"
    of["deploy"].add_argument("--model_directory", metavar="FOLDER", help=says)
    says = "print where it would be and send nothing; needs no credentials"
    of["deploy"].add_argument("--dry_run", action="store_true", help=says)
    _add_sending(of["create-cluster"], "until it takes steps")
    submit = of["submit"]
    submit.usage = "%(prog)s [--cluster_id ID] [--wait] [--dry_run] ... -- --input_dir S3 --output_dir S3 ..."
    submit.add_argument("--cluster_id", metavar="ID", help="add the step to this cluster")
    says = "where the driver runs; client: on the primary node, so that its log is the step's [client]"
    submit.add_argument("--deploy_mode", choices=("client", "cluster"), default="client", help=says)
    _add_sending(submit, "until the step has ended, and show the job's progress")
    for name in ("status", "logs", "cancel", "terminate"):
        says = "of 'submit' or 'create-cluster'"
        of[name].add_argument("--cluster_id", metavar="ID", required=True, help=says)
    for name in ("status", "logs", "cancel"):
        of[name].add_argument("--step_id", metavar="ID", help="which step [the newest]")
    for name in ("create-cluster", "submit", "cancel", "terminate"):
        says = "print the API call as JSON and send nothing; needs no credentials"
        more = " if --step_id is given" if name == "cancel" else ""
        of[name].add_argument("--dry_run", action="store_true", help=says + more)
    of["status"].add_argument("--wait", action="store_true", help="then wait until the step has ended")
    return parser


def _add_sending(parser: argparse.ArgumentParser, until: str) -> None:
    parser.add_argument("--release_version", metavar="VERSION", help="of 'deploy' [the newest deployed]")
    parser.add_argument("--wait", action="store_true", help=f"wait {until}")
