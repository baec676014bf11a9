"""A replica's spans name its node and its pod."""

import ray
import ray.util

from deployments import place
from tracing import encode
from tracing.allow_list import TAG_SHAPES

NODE = "f" * 56


def told(monkeypatch, environment: dict[str, str], node: str | None = NODE) -> dict:
    for name in ("HOSTNAME", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "is_initialized", lambda: node is not None)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Context", (), {"get_node_id": lambda self: node})())
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.99.0.12")
    [span] = encode(place.tracer("tts-service", "r1").server("GENERATE_MEL", parent=None).end())
    assert span["localEndpoint"] == {"serviceName": "tts-service", "ipv4": "10.99.0.12"}
    for key, value in span["tags"].items():
        assert TAG_SHAPES[key].fullmatch(value), f"{key} would not leave"
    return span["tags"]


def test_a_node_is_named_by_its_id_and_its_address(monkeypatch):
    assert told(monkeypatch, {"HOSTNAME": "desk"}) == {"replica.id": "r1", "node.id": NODE}


def test_a_pod_is_named_on_kubernetes(monkeypatch):
    pod = "cosygraph-raycluster-x7k2p-gpu-worker-9fjt2"
    tags = told(monkeypatch, {"HOSTNAME": pod, "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert tags["k8s.pod.name"] == pod


def test_a_process_outside_ray_has_an_address_alone(monkeypatch):
    assert told(monkeypatch, {}, node=None) == {"replica.id": "r1"}
