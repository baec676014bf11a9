"""The Dockerfile and the compose file: every path, name and command in them means a thing."""

from __future__ import annotations

import re
import subprocess
from urllib.parse import urlsplit

import pytest
import yaml

from cluster import cli, kubernetes_command
from cluster.ray_head import ROOT
from tests.helpers import dockerfile, kustomize

STAGES = dockerfile.read(ROOT / "Dockerfile")
#: Folders of the repository that run nowhere in a container.
NOT_IN_THE_IMAGE = {".ci", "bench", "docs", "examples", "tests"}


class TestContent:
    def test_the_driver_of_the_bucket_is_in_the_lock(self):
        scheme = kubernetes_command.VOICES_URL.partition(":")[0]
        assert re.search(rf"^{scheme}fs==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    def test_every_folder_of_the_repository_is_in_the_image_or_named_here(self):
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        folders = {line.partition("/")[0] for line in tracked.splitlines() if "/" in line}
        copied = {
            source
            for instruction, rest in STAGES["code"].steps
            if instruction == "COPY"
            for source in rest.split()[:-1]
        }
        assert folders - copied == NOT_IN_THE_IMAGE

    def test_the_engine_is_sent_what_is_copied(self):
        sent = set(dockerfile.ignored(ROOT / ".dockerignore"))
        steps = [rest for stage in STAGES.values() for instruction, rest in stage.steps if instruction == "COPY"]
        copied = {source for rest in steps if not rest.startswith("--from") for source in rest.split()[:-1]}
        assert copied == sent

    def test_an_unknown_instruction_is_not_left_out_in_silence(self, tmp_path):
        (tmp_path / "Dockerfile").write_text("FROM scratch AS a\nADD archive.tar /\n")
        with pytest.raises(ValueError, match="ADD"):
            dockerfile.read(tmp_path / "Dockerfile")


class TestCompose:
    @pytest.fixture
    def compose(self) -> dict:
        return yaml.safe_load((ROOT / "compose.yaml").read_text())

    def test_every_name_means_a_thing(self, compose):
        services = compose["services"]
        for service in services.values():
            assert set(service["depends_on"]) <= services.keys() if "depends_on" in service else True
            for volume in service.get("volumes", ()):
                assert volume.partition(":")[0] in compose["volumes"]
            for needed, how in service.get("depends_on", {}).items():
                assert how["condition"] != "service_healthy" or "healthcheck" in services[needed]
        text = (ROOT / "compose.yaml").read_text()
        hosts = set(re.findall(r"http://([a-z]+):", text))
        assert hosts <= services.keys()
        build = services["graph"]["build"]
        assert build["target"] in STAGES and services["links"]["image"] == services["graph"]["image"]

    def test_only_this_machine_reaches_the_ports(self, compose):
        ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
        assert ports and all(port.startswith("127.0.0.1:") for port in ports)

    def test_links_to_traces_lead_to_a_port_of_this_machine(self, compose):
        """A browser knows no container by its name."""
        page = urlsplit(compose["services"]["graph"]["environment"]["ZIPKIN_UI_URL"])
        assert f"{page.hostname}:{page.port}:9411" in compose["services"]["zipkin"]["ports"]

    def test_the_scripts_are_shells_and_their_commands_are_known(self, compose):
        for service in compose["services"].values():
            if "command" not in service:
                continue
            shell, flag, script = service["command"]
            assert (shell, flag) == ("bash", "-c")
            script = script.replace("$$", "$")
            subprocess.run(["bash", "-n", "-c", script], check=True)
            for line in re.findall(r"python -m cluster ([^'>|;\n]*)", script):
                cli.parser().parse_args(line.split())

    def test_the_backends_are_set_up_as_on_kubernetes(self, compose):
        documents = kustomize.render(kubernetes_command.FOLDER / "overlays" / "cpu")
        containers = {
            one["name"]: one for _, pod in kustomize.pod_templates(documents) for one in pod["spec"]["containers"]
        }
        for name in ("zipkin", "opensearch"):
            theirs = {one["name"]: one["value"] for one in containers[name]["env"]}
            ours = compose["services"][name]["environment"]
            differ = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
            assert differ <= {"ZIPKIN_QUERY_ALLOWED_ORIGINS"}
            assert compose["services"][name]["image"] == containers[name]["image"]
