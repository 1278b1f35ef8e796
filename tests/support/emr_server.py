"""EMR on the loopback: moto's server, and in front of it what moto lacks, by botocore's own service model."""

import io
import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import botocore.session
from botocore.validate import ParamValidator
from moto.core import DEFAULT_ACCOUNT_ID
from moto.emr.models import emr_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

_MODEL = botocore.session.get_session().get_service_model("emr")
_TARGET = "ElasticMapReduce."


class EmrServer:
    """Runs from `with` to its end. The test is the cluster: it says what becomes of steps and clusters.

    Every request is checked against the service model, and so is every answer of this handler's own.

    Attributes:
        requests: what came, oldest first: operation and parameters.
        refusals: operation -> code and message that it answers with, once.
    """

    def __init__(self, region: str) -> None:
        self.region = region
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, tuple[str, str]] = {}
        self._reasons: dict[str, dict[str, str]] = {}
        self._fleets: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)

    def __enter__(self) -> "EmrServer":
        Thread(target=self._server.serve_forever, name="emr server", daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """Where it is, for AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def backend(self):
        """Moto's state; without Amazon's host names it knows of one region only."""
        return emr_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]

    def parameters(self, operation: str) -> dict[str, Any]:
        """Return those of the last call of an operation."""
        return next(given for name, given in reversed(self.requests) if name == operation)

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

    def _answer(self, environ, start_response):
        request = Request(environ)
        target = request.headers.get("X-Amz-Target", "")
        if not target.startswith(_TARGET):
            return self._moto(environ, start_response)
        operation = target.removeprefix(_TARGET)
        body = request.get_data()
        parameters = json.loads(body or b"{}")
        check(_MODEL.operation_model(operation).input_shape, parameters)
        self.requests.append((operation, parameters))
        if operation in self.refusals:
            code, message = self.refusals.pop(operation)
            return _json({"__type": code, "message": message}, 400)(environ, start_response)
        if own := getattr(self, f"_{_snake(operation)}", None):
            answer = own(parameters)
            check(_MODEL.operation_model(operation).output_shape, answer)
            return _json(answer)(environ, start_response)
        environ["wsgi.input"] = io.BytesIO(body)  # it was read, and moto reads it again
        answered = Response.from_app(self._moto, environ)
        return self._with_more(operation, parameters, answered)(environ, start_response)

    def _with_more(self, operation: str, parameters: dict[str, Any], answered: Response) -> Response:
        """Return moto's answer with what moto forgets: why a cluster ended, and which fleets it has."""
        if answered.status_code != 200 or operation not in ("RunJobFlow", "DescribeCluster"):
            return answered
        told = json.loads(answered.get_data())
        if operation == "RunJobFlow":
            self._fleets[told["JobFlowId"]] = parameters["Instances"].get("InstanceFleets", [])
        elif reason := self._reasons.get(parameters["ClusterId"]):
            told["Cluster"]["Status"]["StateChangeReason"] = reason
        return _json(told)

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


class _Quiet(WSGIRequestHandler):
    def log(self, *args) -> None:
        """Say nothing."""


def check(shape, given: Any) -> None:
    """Fail where parameters are not what a shape of the service model takes, or have a name that it lacks."""
    report = ParamValidator().validate(given, shape)
    assert not report.has_errors(), report.generate_report()
    check_choices(shape, given)


def check_choices(shape, given: Any) -> None:
    """Fail where a value is none of those that the service model lists, which botocore does not look at."""
    if shape.type_name == "structure":
        for name, value in given.items():
            check_choices(shape.members[name], value)
    elif shape.type_name == "list":
        for value in given:
            check_choices(shape.member, value)
    elif enum := shape.metadata.get("enum"):
        assert given in enum, f"{shape.name}: {given!r}"


def check_request(operation: str, parameters: dict[str, Any]) -> None:
    """Fail where the parameters of an operation are not what EMR takes."""
    check(_MODEL.operation_model(operation).input_shape, parameters)


def _json(told: Any, status: int = 200) -> Response:
    return Response(json.dumps(told), status, content_type="application/x-amz-json-1.1")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
