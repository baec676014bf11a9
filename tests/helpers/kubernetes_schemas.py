"""Checks Kubernetes' documents by the schemas of their kinds; a field that a schema does not know is an error.

- RayService: the CRD as KubeRay publishes it, which lies beside the repository.
- Kubernetes' own kinds: the schemas in PyPI's kubernetes-validate, of the version that `KUBERNETES` names.
- PodMonitor and PrometheusRule: the fields below, written by hand, because no light package has their CRDs.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.32"
CRD = Path(__file__).resolve().parents[3] / "shared" / "kuberay" / "ray.io_rayservices.yaml"

_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_TEXT_MAP = {"type": "object", "additionalProperties": _TEXT}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": [name for name in required],
    }


def _list(of: dict) -> dict:
    return {"type": "array", "items": of, "minItems": 1}


_RELABELING = _object(
    ("action",),
    sourceLabels=_TEXTS,
    targetLabel=_TEXT,
    regex=_TEXT,
    replacement=_TEXT,
    action={"enum": ["replace", "keep", "drop", "labeldrop"]},
)
_ENDPOINT = _object(
    ("port",), port=_TEXT, path=_TEXT, relabelings=_list(_RELABELING), metricRelabelings=_list(_RELABELING)
)
_RULE = _object(
    ("alert", "expr"),
    alert=_TEXT,
    expr=_TEXT,
    labels=_TEXT_MAP,
    annotations=_TEXT_MAP,
    **{"for": {"type": "string", "pattern": "^[0-9]+(s|m|h)$"}},
)
MONITORING = {
    "PodMonitor": _object(
        ("selector", "podMetricsEndpoints"),
        selector=_object(matchLabels=_TEXT_MAP),
        podMetricsEndpoints=_list(_ENDPOINT),
    ),
    "PrometheusRule": _object(("groups",), groups=_list(_object(("name", "rules"), name=_TEXT, rules=_list(_RULE)))),
}


def validate(document: dict) -> None:
    """Check a document by the schema of its kind.

    Raises:
        jsonschema.ValidationError: It has a wrong, missing or unknown field.
    """
    group = document["apiVersion"].partition("/")[0]
    if group == "ray.io":
        jsonschema.Draft202012Validator(ray_service_schema()).validate(document)
    elif group == "monitoring.coreos.com":
        jsonschema.Draft202012Validator(MONITORING[document["kind"]]).validate(document["spec"])
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    _validate_metadata(document["metadata"])


@cache
def ray_service_schema() -> dict:
    """Return the CRD's schema of RayService v1, changed so that it refuses unknown fields."""
    if not CRD.is_file():
        pytest.skip("no ../shared/kuberay: KubeRay's CRD lies beside the repository, not in it")
    versions = yaml.load(CRD.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    [schema] = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
    _refuse_unknown(schema)
    del schema["properties"]["metadata"]["additionalProperties"]  # checked by itself
    return schema


def _refuse_unknown(schema: Any) -> None:
    if isinstance(schema, list):
        for one in schema:
            _refuse_unknown(one)
    elif isinstance(schema, dict):
        is_object = schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields")
        for inside in list(schema.values()):
            _refuse_unknown(inside)
        if is_object and "additionalProperties" not in schema:
            schema["additionalProperties"] = False


def _validate_metadata(metadata: dict) -> None:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    known = definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]
    if unknown := metadata.keys() - known.keys():
        raise jsonschema.ValidationError(f"metadata has unknown fields: {unknown}")
