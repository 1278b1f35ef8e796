"""AWS on the loopback: moto's server, and in front of it what a test says, by botocore's models."""

import io
import json
import re
from functools import cache
from threading import Thread
from typing import Any

import botocore.session
from botocore.validate import ParamValidator
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

_TARGETS = {"ElasticMapReduce": "emr", "Logs_20140328": "logs"}


class AwsServer:
    """Runs from `with` to its end.

    Every request is checked against the service's model, and so is every answer of a handler's own: a method
    `_describe_jobs(parameters)` answers DescribeJobs in place of moto.

    Attributes:
        requests: what came, oldest first: operation and parameters.
        refusals: operation -> code and message that it answers with, once.
    """

    def __init__(self, region: str) -> None:
        self.region = region
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, tuple[str, str]] = {}
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)

    def __enter__(self):
        Thread(target=self._server.serve_forever, name="aws server", daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """Where it is, for AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def parameters(self, operation: str) -> dict[str, Any]:
        """Return those of the last call of an operation."""
        return next(given for name, given in reversed(self.requests) if name == operation)

    def _answer(self, environ, start_response):
        request = Request(environ)
        body = request.get_data()
        environ["wsgi.input"] = io.BytesIO(body)  # it was read, and moto reads it again
        asked = _read(request)
        if asked is None:
            return self._moto(environ, start_response)
        service, operation = asked
        parameters = json.loads(body or b"{}")
        model = service_model(service).operation_model(operation)
        check(model.input_shape, parameters)
        self.requests.append((operation, parameters))
        if operation in self.refusals:
            code, message = self.refusals.pop(operation)
            return json_answer({"__type": code, "message": message}, 400)(environ, start_response)
        if own := getattr(self, f"_{_snake(operation)}", None):
            answer = own(parameters)
            check(model.output_shape, answer)
            return json_answer(answer)(environ, start_response)
        answered = Response.from_app(self._moto, environ)
        return self._with_more(operation, parameters, answered)(environ, start_response)

    def _with_more(self, operation: str, parameters: dict[str, Any], answered: Response) -> Response:
        """Return moto's answer with what moto forgets."""
        return answered


def _read(request: Request) -> tuple[str, str] | None:
    """Return service and operation of a request; None for one that is moto's alone."""
    target, _, operation = request.headers.get("X-Amz-Target", "").partition(".")
    if target in _TARGETS:
        return _TARGETS[target], operation
    if "/batch/aws4_request" in request.headers.get("Authorization", "") and request.path.startswith("/v1/"):
        return "batch", _batch_operations()[request.path]
    return None


@cache
def _batch_operations() -> dict[str, str]:
    model = service_model("batch")
    return {model.operation_model(name).http["requestUri"]: name for name in model.operation_names}


@cache
def service_model(service: str):
    """Return botocore's model of a service."""
    return botocore.session.get_session().get_service_model(service)


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


def check_request(service: str, operation: str, parameters: dict[str, Any]) -> None:
    """Fail where the parameters of an operation are not what a service takes."""
    check(service_model(service).operation_model(operation).input_shape, parameters)


def json_answer(told: Any, status: int = 200) -> Response:
    """Return an answer of one of the JSON services."""
    return Response(json.dumps(told), status, content_type="application/x-amz-json-1.1")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
