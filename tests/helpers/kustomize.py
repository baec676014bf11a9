"""Renders a kustomization as far as the project uses kustomize: resources, JSON patches, images, a namespace.

A machine without kubectl can check the manifests this way. Where kubectl is, tests compare the two.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBECTL = shutil.which("kubectl")
#: Of a kustomization; another field would be left out in silence.
KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
CLUSTER_WIDE = {"Namespace"}


def render(folder: Path) -> list[dict]:
    """Return the documents of the kustomization in `folder`.

    Raises:
        ValueError: It uses a feature that is not known here, or a patch meets no document.
    """
    own = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := own.keys() - KNOWN:
        raise ValueError(f"{folder}: {unknown} is not rendered here")
    documents: list[dict] = []
    for name in own["resources"]:
        path = folder / name
        documents += render(path) if path.is_dir() else filter(None, yaml.safe_load_all(path.read_text()))
    documents = json.loads(json.dumps(documents))  # anchors make one object of several places
    for patch in own.get("patches", ()):
        target = patch["target"]
        met = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])]
        if not met:
            raise ValueError(f"{folder}: {patch['path']} meets no document")
        for document in met:
            for operation in yaml.safe_load((folder / patch["path"]).read_text()):
                _apply(document, operation)
    for image in own.get("images", ()):
        _name_images(documents, image)
    if namespace := own.get("namespace"):
        for document in documents:
            if document["kind"] not in CLUSTER_WIDE:
                document["metadata"]["namespace"] = namespace
    return documents


def render_by_kubectl(folder: Path) -> list[dict]:
    """Return what kubectl makes of the kustomization in `folder`."""
    assert KUBECTL is not None
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pod_specs(value: Any, key: str = "") -> Iterator[dict]:
    """Yield the `spec` of each template of a pod, at any depth."""
    if isinstance(value, dict):
        if key == "template" and "spec" in value:
            yield value["spec"]
        for name, inside in value.items():
            yield from pod_specs(inside, name)
    elif isinstance(value, list):
        for inside in value:
            yield from pod_specs(inside, key)


def _apply(document: Any, operation: dict) -> None:
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    for part in way:
        document = document[int(part)] if isinstance(document, list) else document[part]
    if operation["op"] == "replace" and last not in document:
        raise ValueError(f"nothing to replace at {operation['path']}")
    if operation["op"] not in ("add", "replace") or isinstance(document, list):
        raise ValueError(f"this operation is not rendered here: {operation}")
    document[last] = operation["value"]


def _name_images(value: Any, image: dict) -> None:
    if isinstance(value, list):
        for one in value:
            _name_images(one, image)
    elif isinstance(value, dict):
        for name, inside in value.items():
            if name in ("containers", "initContainers") and isinstance(inside, list):
                for container in inside:
                    if container.get("image", "").partition(":")[0] == image["name"]:
                        container["image"] = f"{image['newName']}:{image['newTag']}"
            _name_images(inside, image)
