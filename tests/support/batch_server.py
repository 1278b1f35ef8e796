"""AWS Batch on the loopback: the stack is made out of its template, jobs are as the test says."""

import json
import sys
import time
from typing import Any
from unittest.mock import MagicMock, patch

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.models import default_user_config
from werkzeug.wrappers import Response

from support.aws_server import AwsServer, json_answer

NEW = {"status": "RUNNABLE"}
_KEPT = ("jobArn", "jobId", "jobName", "jobQueue", "jobDefinition", "createdAt", "startedAt")


class BatchServer(AwsServer):
    """Runs from `with` to its end. The test is Batch's scheduler and the instance: it says how a job is.

    Attributes:
        jobs: job id -> what DescribeJobs says of it, one after the other, the last for ever; to
            moto every job succeeds at once.
        next_job: the same for the next job that is submitted.
        environment: what DescribeComputeEnvironments says of each, besides.
        outputs: of the stack spark-embed.
    """

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.jobs: dict[str, list[dict[str, Any]]] = {}
        self.next_job: list[dict[str, Any]] = []
        self.environment: dict[str, Any] = {}
        self.outputs: dict[str, str] = {}

    def __enter__(self):
        default_user_config["batch"]["use_docker"] = False
        # CloudFormation imports all of moto; this wants a package more, and is not in the template.
        for name in ("moto.apigateway", "moto.apigateway.models"):
            sys.modules.setdefault(name, MagicMock())
        from moto.batch.models import ComputeEnvironment, batch_backends

        make = ComputeEnvironment.create_from_cloudformation_json.__func__

        def make_with_role(cls, name, resource, account_id, region_name, **more):
            """Moto knows nothing of Batch's own role, which is taken where none is named."""
            roles = batch_backends[account_id][region_name].iam_backend.roles.values()
            resource["Properties"].setdefault("ServiceRole", next(iter(roles)).arn)
            return make(cls, name, resource, account_id, region_name, **more)

        self._patch = patch.object(
            ComputeEnvironment, "create_from_cloudformation_json", classmethod(make_with_role)
        )
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *exc_info) -> None:
        super().__exit__()
        self._patch.stop()

    def network(self) -> tuple[str, list[str]]:
        """Return a VPC and its subnets."""
        from moto.ec2.models import ec2_backends

        backend = ec2_backends[DEFAULT_ACCOUNT_ID][self.region]
        vpc_id = next(iter(backend.vpcs))
        return vpc_id, [
            subnet.id
            for zone in backend.subnets.values()
            for subnet in zone.values()
            if subnet.vpc_id == vpc_id
        ]

    def definition(self, name: str):
        """Return moto's job definition of a name."""
        from moto.batch.models import batch_backends

        return batch_backends[DEFAULT_ACCOUNT_ID][self.region].get_job_definition(name)

    def describe(self, job_id: str) -> dict[str, Any]:
        """Return what DescribeJobs says of a job."""
        from moto.batch.models import batch_backends

        (job,) = batch_backends[DEFAULT_ACCOUNT_ID][self.region].describe_jobs([job_id])
        return self._as_said(job)

    def end(self, job_id: str, code: int, log: str = "") -> None:
        """Say that the container of a job has ended by itself, and what it has written."""
        container = {"exitCode": code, "logStreamName": self.write_log(job_id, log)}
        reason = "Essential container in task exited"
        status = "FAILED" if code else "SUCCEEDED"
        self.jobs[job_id] = [{"status": status, "statusReason": reason, "container": container}]

    def write_log(self, job_id: str, text: str) -> str:
        """Put a log where the container's is, in place of what was there; return its stream."""
        from moto.logs.models import logs_backends

        backend = logs_backends[DEFAULT_ACCOUNT_ID][self.region]
        group, stream = "/spark_embed/spark-embed", f"job/default/{job_id}-{len(self.requests)}"
        backend.create_log_stream(group, stream)
        now = int(time.time() * 1000)
        lines = [{"timestamp": now, "message": line} for line in text.splitlines()]
        if lines:
            backend.put_log_events(group, stream, lines)
        return stream

    def _with_more(self, operation: str, parameters: dict[str, Any], answered: Response) -> Response:
        if answered.status_code != 200:
            return answered
        told = json.loads(answered.get_data())
        if operation == "SubmitJob":
            self.jobs[told["jobId"]], self.next_job = self.next_job or [NEW], []
        elif operation == "DescribeJobs":
            told["jobs"] = [self._as_said(job) for job in told["jobs"]]
        elif operation == "DescribeComputeEnvironments":
            told["computeEnvironments"] = [one | self.environment for one in told["computeEnvironments"]]
        return json_answer(told)

    def _as_said(self, job: dict[str, Any]) -> dict[str, Any]:
        states = self.jobs[job["jobId"]]
        said = states.pop(0) if len(states) > 1 else states[0]
        definition = self.definition(job["jobDefinition"]).container_properties
        kept = {key: job["container"][key] for key in ("command", "environment")}
        container = {**kept, "logConfiguration": definition["logConfiguration"], **said.get("container", {})}
        return {**{key: job[key] for key in _KEPT}, **said, "container": container}

    def _terminate_job(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self.jobs[parameters["jobId"]] = [{"status": "FAILED", "statusReason": parameters["reason"]}]
        return {}
