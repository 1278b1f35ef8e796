"""Cluster file and job flags -> what is asked of EMR's API; pure functions, which ask nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from spark_embed.aws.emr.cluster_file import Cluster, Fleet
from spark_embed.load_config import conf_folder, read_properties

DeployMode = Literal["client", "cluster"]
Request = dict[str, Any]

# What bootstrap.sh makes on every node.
_PYTHON = "/opt/spark_embed/bin/python"
_CACHE = "/mnt/spark_embed/cache"
# Its venv is on the root volume, and of that torch with CUDA takes 8 GB; EMR's own default is 15.
_ROOT_VOLUME_GB = 50
# After so long without enough spot instances EMR takes on-demand ones; 5 is what the API takes at least.
_SPOT_TIMEOUT_MINUTES = 20
_STEP_NAME_CHARS = 256

_IN_CLUSTER_MODE = {
    # YARN would start a driver that has failed anew: wrong flags, and a run that --max_cost has stopped, too.
    "spark.yarn.maxAppAttempts": "1",
    # Beside the JVM the container holds the driver's Python, which plans and publishes.
    "spark.driver.memoryOverhead": "2g",
}

_FLEET_TYPES = {"primary": "MASTER", "core": "CORE", "task": "TASK"}


def release_folder(cluster: Cluster, version: str) -> str:
    """Return where a release is in S3."""
    return f"{cluster.home}/releases/{version}"


def run_job_flow(cluster: Cluster, version: str, steps: Sequence[Request] = ()) -> Request:
    """Return the parameters of RunJobFlow.

    Args:
        cluster: as the file says.
        version: of the release that its nodes install.
        steps: with which it begins, and after which it ends; without any it stays until it is idle.
    """
    release = release_folder(cluster, version)
    bootstrap = {"Path": f"{release}/bootstrap.sh", "Args": [release, *(["--gpu"] if cluster.gpu else [])]}
    fleets = {name: getattr(cluster.fleets, name) for name in _FLEET_TYPES}
    request: Request = {
        "Name": "spark_embed",
        "LogUri": f"{cluster.log_uri}/",
        "ReleaseLabel": cluster.release,
        "Applications": [{"Name": "Spark"}],
        "Instances": {
            "InstanceFleets": [
                _fleet(name, fleet) for name, fleet in fleets.items() if fleet and fleet.n_instances
            ],
            "Ec2SubnetIds": list(cluster.subnets),
            "KeepJobFlowAliveWhenNoSteps": not steps,
            "TerminationProtected": False,
        },
        "Steps": list(steps),
        "BootstrapActions": [{"Name": "spark_embed", "ScriptBootstrapAction": bootstrap}],
        "Configurations": [item.model_dump(exclude_defaults=True) for item in cluster.configurations],
        "ServiceRole": cluster.service_role,
        "JobFlowRole": cluster.instance_profile,
        "Tags": [{"Key": key, "Value": value} for key, value in cluster.tags.items()],
        "AutoTerminationPolicy": {"IdleTimeout": cluster.idle_timeout_s},
        "EbsRootVolumeSize": _ROOT_VOLUME_GB,
    }
    if cluster.security_configuration:
        request["SecurityConfiguration"] = cluster.security_configuration
    return request


def add_steps(cluster_id: str, steps: Sequence[Request]) -> Request:
    """Return the parameters of AddJobFlowSteps."""
    return {"JobFlowId": cluster_id, "Steps": list(steps)}


def cancel_steps(cluster_id: str, step_id: str) -> Request:
    """Return the parameters of CancelSteps: spark-submit gets SIGTERM; in client mode its driver is there."""
    return {"ClusterId": cluster_id, "StepIds": [step_id], "StepCancellationOption": "SEND_INTERRUPT"}


def job_step(
    cluster: Cluster,
    version: str,
    job: Sequence[str],
    *,
    name: str,
    deploy_mode: DeployMode = "client",
    is_alone: bool,
) -> Request:
    """Return the step that runs the job.

    Args:
        cluster: as the file says.
        version: of the release whose job is run.
        job: the flags of the job, checked already.
        name: of the step, for people.
        deploy_mode: client: the driver is the step, so its exit code and its log are; cluster: YARN's.
        is_alone: the cluster is there for this step only, and ends with it, also where it fails.
    """
    release = release_folder(cluster, version)
    conf = {**({} if deploy_mode == "client" else _IN_CLUSTER_MODE), **spark_settings(cluster)}
    # Not --properties-file: with it Spark leaves out EMR's spark-defaults.conf, and s3:// with that.
    settings = [word for item in conf.items() for word in ("--conf", "=".join(item))]
    files = ["--files", f"{release}/conf/gpus.sh"] if cluster.gpu else []
    args = ["spark-submit", "--deploy-mode", deploy_mode, *settings, *files]
    args += ["--py-files", f"{release}/spark_embed.zip", f"{release}/jobs/embed.py", *job]
    return {
        "Name": name[:_STEP_NAME_CHARS],
        "ActionOnFailure": "TERMINATE_CLUSTER" if is_alone else "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": args},
    }


def spark_settings(cluster: Cluster) -> dict[str, str]:
    """Return the Spark settings of a step: of the conf file, of the nodes, of the cluster file."""
    n_executors = sum(fleet.n_instances for fleet in cluster.workers) * cluster.executors_per_instance
    nodes = {
        # Without dynamic allocation YARN would give 2 (Spark's default), however large the cluster is.
        "spark.executor.instances": str(n_executors),
        "spark.pyspark.python": _PYTHON,
        "spark.executorEnv.XDG_CACHE_HOME": _CACHE,
        "spark.yarn.appMasterEnv.XDG_CACHE_HOME": _CACHE,
    }
    return {**read_properties(str(conf_folder() / cluster.conf_file)), **nodes, **cluster.spark}


def _fleet(name: str, fleet: Fleet) -> Request:
    volume = {"VolumeSpecification": {"VolumeType": "gp3", "SizeInGB": fleet.volume_gb}}
    launch: Request = {"OnDemandSpecification": {"AllocationStrategy": "lowest-price"}}
    if fleet.spot:
        launch["SpotSpecification"] = {
            "AllocationStrategy": "price-capacity-optimized",
            "TimeoutDurationMinutes": _SPOT_TIMEOUT_MINUTES,
            "TimeoutAction": "SWITCH_TO_ON_DEMAND",
        }
    return {
        "Name": name,
        "InstanceFleetType": _FLEET_TYPES[name],
        "TargetOnDemandCapacity": fleet.on_demand,
        "TargetSpotCapacity": fleet.spot,
        "InstanceTypeConfigs": [
            {
                "InstanceType": kind,
                "WeightedCapacity": 1,  # so that the targets are numbers of instances
                "EbsConfiguration": {"EbsBlockDeviceConfigs": [volume]},
            }
            for kind in fleet.types
        ],
        "LaunchSpecifications": launch,
    }
