"""What the Spark operator takes, as far as deploy/kubernetes uses it: a JSON schema.

Names, types and limits are those of SparkApplication, version v1beta2, in kubeflow/spark-operator 2.x
(api/v1beta2/sparkapplication_types.go). A field that is not used there is not here: add it when it is.
"""

from typing import Any

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_RETRIES = {"type": "integer", "minimum": 0}
_INTERVAL_S = {"type": "integer", "minimum": 1}
_COUNT = {"type": "integer", "minimum": 1}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _pod(**properties: Any) -> dict[str, Any]:
    """Return what driver and executors have alike. Templates are Kubernetes' own, and checked as such."""
    alike = {
        "cores": _COUNT,
        "coreRequest": _TEXT,
        "memory": _TEXT,
        "memoryOverhead": _TEXT,
        "serviceAccount": _TEXT,
        "template": {"type": "object"},
    }
    return _object(**alike, **properties)


SCHEMA = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "sparkoperator.k8s.io/v1beta2"},
    kind={"const": "SparkApplication"},
    metadata=_object(("name",), name=_TEXT, labels=_TEXTS),
    spec=_object(
        ("type", "sparkVersion", "mainApplicationFile", "driver", "executor"),
        type={"enum": ["Java", "Python", "Scala", "R"]},
        pythonVersion={"enum": ["2", "3"]},
        mode={"enum": ["cluster", "client"]},
        sparkVersion=_TEXT,
        image=_TEXT,
        imagePullPolicy=_TEXT,
        mainApplicationFile=_TEXT,
        arguments={"type": "array", "items": _TEXT},
        sparkConf=_TEXTS,
        restartPolicy=_object(
            type={"enum": ["Never", "Always", "OnFailure"]},
            onFailureRetries=_RETRIES,
            onFailureRetryInterval=_INTERVAL_S,
            onSubmissionFailureRetries=_RETRIES,
            onSubmissionFailureRetryInterval=_INTERVAL_S,
        ),
        timeToLiveSeconds={"type": "integer"},
        driver=_pod(),
        executor=_pod(instances=_COUNT),
    ),
)
