"""EMR on the loopback: what moto lacks of it, and what becomes of steps and clusters."""

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.emr.models import emr_backends
from werkzeug.wrappers import Response

from support.aws_server import AwsServer, json_answer


class EmrServer(AwsServer):
    """Runs from `with` to its end. The test is the cluster: it says what becomes of steps and clusters."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self._reasons: dict[str, dict[str, str]] = {}
        self._fleets: dict[str, list[dict[str, Any]]] = defaultdict(list)

    @property
    def backend(self):
        """Moto's state; without Amazon's host names it knows of one region only."""
        return emr_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]

    def step(self, cluster_id: str, step_id: str | None = None):
        """Return moto's step, else the last one."""
        steps = self.backend.clusters[cluster_id].steps
        return next(step for step in reversed(steps) if step_id in (None, step.id))

    def end_step(self, cluster_id: str, state: str, step_id: str | None = None) -> None:
        """Say what became of a step."""
        step = self.step(cluster_id, step_id)
        step.end_date_time = datetime.now(UTC).replace(tzinfo=None)
        step.state = state

    def end_cluster(self, cluster_id: str, code: str, message: str, steps: str) -> None:
        """Let a cluster end by itself; `steps` is what becomes of its steps."""
        cluster = self.backend.clusters[cluster_id]
        cluster.terminate()
        cluster.state = "TERMINATED_WITH_ERRORS"
        self._reasons[cluster_id] = {"Code": code, "Message": message}
        for step in cluster.steps:
            step.state = steps

    def _with_more(self, operation: str, parameters: dict[str, Any], answered: Response) -> Response:
        """Return moto's answer with what moto forgets: why a cluster ended, and which fleets it has."""
        if answered.status_code != 200 or operation not in ("RunJobFlow", "DescribeCluster"):
            return answered
        told = json.loads(answered.get_data())
        if operation == "RunJobFlow":
            self._fleets[told["JobFlowId"]] = parameters["Instances"].get("InstanceFleets", [])
        elif reason := self._reasons.get(parameters["ClusterId"]):
            told["Cluster"]["Status"]["StateChangeReason"] = reason
        return json_answer(told)

    def _cancel_steps(self, parameters: dict[str, Any]) -> dict[str, Any]:
        infos = []
        for step_id in parameters["StepIds"]:
            step = self.step(parameters["ClusterId"], step_id)
            if step.state in ("PENDING", "RUNNING"):
                self.end_step(parameters["ClusterId"], "CANCELLED", step_id)
                infos.append({"StepId": step_id, "Status": "SUBMITTED"})
            else:
                reason = f"Step {step_id} is in state {step.state}."
                infos.append({"StepId": step_id, "Status": "FAILED", "Reason": reason})
        return {"CancelStepsInfoList": infos}

    def _list_instance_fleets(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            "InstanceFleets": [
                {
                    "Name": fleet["Name"],
                    "InstanceFleetType": fleet["InstanceFleetType"],
                    "Status": {"State": "RUNNING"},
                    **{key: fleet[key] for key in ("TargetOnDemandCapacity", "TargetSpotCapacity")},
                    "ProvisionedOnDemandCapacity": fleet["TargetOnDemandCapacity"],
                    "ProvisionedSpotCapacity": 0,
                }
                for fleet in self._fleets[parameters["ClusterId"]]
            ]
        }
