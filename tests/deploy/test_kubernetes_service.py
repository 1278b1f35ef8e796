"""What deploy/kubernetes says of the service is what the service is."""

import re

import pytest
import yaml

from spark_embed.config import ModelOptions
from spark_embed.service.realtime.app import make_app
from spark_embed.service.realtime.engine import Engine
from spark_embed.service.realtime.load_settings import load_settings, read_api_key
from spark_embed.service.realtime.metrics import Metrics
from spark_embed.service.realtime.settings import Settings

from support.kubernetes_manifests import DOCS, OVERLAYS, container, overlay, variables


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_and_settings_are_the_services(name):
    pod = overlay(name, "Deployment")["spec"]["template"]
    one = container(pod)
    settings = load_settings([], variables(one))
    assert read_api_key(settings, variables(one)) == "of-a-secret"
    assert settings.logging.format == "json"
    assert settings.server.n_decode_threads == (2 if name == "cpu" else 7)
    assert settings.model.device == ("auto" if name == "cpu" else "gpu")
    (port,) = one["ports"]
    assert port == {"name": "http", "containerPort": Settings().service.port}
    routes = {route.path for route in make_app(Engine(settings), None, lambda exc: None).routes}
    asked = {name: one[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/health", "readiness": "/ready", "liveness": "/health"}
    scraped = pod["metadata"]["annotations"]
    assert {*asked.values(), scraped["prometheus.io/path"]} <= routes
    assert scraped["prometheus.io/port"] == str(port["containerPort"])
    assert {one[f"{name}Probe"]["httpGet"]["port"] for name in asked} == {port["name"]}
    leaving_s = one["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > leaving_s + settings.server.drain_timeout_s


@pytest.mark.parametrize("name", OVERLAYS)
def test_service_budget_and_autoscaler_mean_the_deployment(name):
    deployment, service = overlay(name, "Deployment"), overlay(name, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    job = overlay(name, "Job")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        overlay(name, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= job.items()
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    # As the name of a Service it becomes variables of other pods, and these are read by the job.
    assert not service["metadata"]["name"].upper().replace("-", "_").startswith("SPARK_EMBED")
    scaler = overlay(name, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    waiting, cpu = scaler["metrics"]
    metric = waiting["pods"]["metric"]["name"]
    assert re.search(rf"^{metric}{{", Metrics("m").exposition().decode(), re.MULTILINE)
    batch_size = ModelOptions.model_fields["batch_size"].default
    assert waiting["pods"]["target"] == {"type": "AverageValue", "averageValue": str(batch_size)}
    assert cpu["resource"]["name"] == "cpu"
    (rules,) = re.findall(r"```yaml\n(rules:.*?)```", DOCS, re.DOTALL)
    (rule,) = yaml.safe_load(rules)["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{metric}{{")
