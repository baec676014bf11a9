"""The manifests of cluster/kubernetes are valid, agree with the project's files, and name nothing that is not there."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from access.keys import digest, parse
from cluster import cli, kubernetes_command, node_environment, zipkin, zipkin_jar
from cluster.application import Application
from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.storage_elasticsearch import Server
from tests.helpers import kubernetes_schemas, kustomize
from tests.helpers.kustomize import everything, pod_templates

FOLDER = kubernetes_command.FOLDER
OVERLAYS = sorted(kubernetes_command.OVERLAYS)
COMPONENT = "app.kubernetes.io/component"
IMAGES_OF_OURS = "registry.example/cosygraph"


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def documents(overlay) -> list[dict]:
    return kustomize.render(FOLDER / "overlays" / overlay)


@pytest.fixture(scope="module")
def ray_service(documents) -> dict:
    [found] = [one for one in documents if one["kind"] == "RayService"]
    return found


def named(documents: list[dict], kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in documents if one["kind"] == kind}


def serve_config(ray_service: dict) -> dict:
    return yaml.safe_load(ray_service["spec"]["serveConfigV2"])


class TestSchemas:
    def test_every_document_is_valid(self, documents):
        for document in documents:
            kubernetes_schemas.validate(document)

    @pytest.mark.parametrize(
        "way, value",
        [
            (["spec", "rayClusterSpec"], {}),  # as Ray's page on incremental upgrades has it
            (["spec", "upgradeStrategy", "stepSizePercent"], 10),
            (["spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "container"], []),
            (["spec", "rayClusterConfig", "authOptions", "mode"], "tokens"),
            (["spec", "rayClusterConfig", "workerGroupSpecs", 0, "maxReplicas"], "8"),
            (["metadata", "label"], {}),
        ],
    )
    def test_a_wrong_field_of_the_ray_service_is_found(self, ray_service, way, value):
        broken = json.loads(json.dumps(ray_service))
        place = broken
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            kubernetes_schemas.validate(broken)

    @pytest.mark.parametrize(
        "kind", ["Deployment", "StatefulSet", "CronJob", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"]
    )
    def test_an_unknown_field_of_any_kind_is_found(self, documents, kind):
        broken = json.loads(json.dumps(next(one for one in documents if one["kind"] == kind)))
        broken["spec"]["replicaz"] = 1
        with pytest.raises(jsonschema.ValidationError, match="replicaz"):
            kubernetes_schemas.validate(broken)

    def test_ray_serve_takes_the_config(self, ray_service):
        from ray.serve.schema import ServeDeploySchema

        config = serve_config(ray_service)
        read = ServeDeploySchema.model_validate(config)
        assert [one.name for one in read.applications] == [one["name"] for one in config["applications"]]

    def test_the_graph_takes_its_settings(self, ray_service):
        from deployments.settings import GraphConfig
        from watchdog.deployment import WatchdogSettings

        graph, dog = serve_config(ray_service)["applications"]
        settings = GraphConfig.model_validate(graph["args"])
        assert settings.access.required is True and settings.voices.url.startswith("s3://")
        WatchdogSettings.model_validate(dog["args"])


class TestKubeRay:
    """Rules of KubeRay 1.7 that no schema says (its validation.go)."""

    def test_an_incremental_upgrade_is_possible(self, ray_service):
        options = ray_service["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]
        assert ray_service["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] is True
        assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
        assert options["intervalSeconds"] > 0 and options["gatewayClassName"]

    def test_the_version_is_the_images(self, ray_service):
        pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
        assert ray_service["spec"]["rayClusterConfig"]["rayVersion"] == pinned["ray"]

    def test_the_head_sets_nothing_that_is_kuberays(self, ray_service):
        head = ray_service["spec"]["rayClusterConfig"]["headGroupSpec"]
        [container] = head["template"]["spec"]["containers"]
        variables = {one["name"] for one in container["env"]}
        assert not variables & {"REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS", "RAY_enable_autoscaler_v2"}
        assert not variables & {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
        assert "redis-password" not in head["rayStartParams"] and head["rayStartParams"]["num-cpus"] == "0"

    def test_pods_of_autoscaled_groups_leave_restarts_to_ray(self, ray_service):
        assert not [value for key, value in everything(ray_service) if key == "restartPolicy"]

    def test_names_are_short_enough(self, ray_service):
        assert re.fullmatch(r"[a-z][-a-z0-9]{0,46}", ray_service["metadata"]["name"])

    def test_the_old_cluster_outlives_its_longest_stream(self, ray_service):
        from deployments.settings import Limits

        limits = Limits.model_validate(serve_config(ray_service)["applications"][0]["args"]["limits"])
        assert ray_service["spec"]["rayClusterDeletionDelaySeconds"] > limits.long_deadline_s

    def test_a_pod_outlives_its_replicas_last_requests(self, ray_service):
        config = serve_config(ray_service)
        longest = max(value for key, value in everything(config) if key == "graceful_shutdown_timeout_s")
        [group] = ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > longest


class TestRoom:
    """The least replicas of each config fit into the least worker pods, and the most into the most."""

    def test_replicas_fit_into_the_pods(self, ray_service):
        [group] = ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        devices = float(limits.get("nvidia.com/gpu", 0))
        graph = serve_config(ray_service)["applications"][0]["deployments"]
        for edge, pods in (("min_replicas", group["minReplicas"]), ("max_replicas", group["maxReplicas"])):
            asked = [(replicas(one, edge), one["ray_actor_options"]) for one in graph]
            beside = 0.05 + 0.05 + 0.1  # limiter, watchdog, fitting-service
            assert sum(count * of["num_cpus"] for count, of in asked) + beside <= float(limits["cpu"]) * pods
            assert sum(count * of.get("num_gpus", 0) for count, of in asked) <= devices * pods + 1e-9
        for one in graph:
            most = one.get("max_replicas_per_node", replicas(one, "max_replicas"))
            assert replicas(one, "max_replicas") <= most * group["maxReplicas"], one["name"]


def replicas(deployment: dict, edge: str) -> int:
    return deployment.get("autoscaling_config", {}).get(edge, deployment.get("num_replicas", 1))


class TestMadeFromTheProjectsFiles:
    def test_what_is_committed_is_what_the_command_makes(self, overlay):
        source = kubernetes_command.OVERLAYS[overlay]
        made = kubernetes_command.serve_patch(kubernetes_command.serve_config(source), source)
        assert (FOLDER / "overlays" / overlay / "serve.yaml").read_text() == made, "run python -m cluster kubernetes"

    def test_the_monitoring_is_what_the_command_makes(self):
        assert (FOLDER / "base" / "monitoring.yaml").read_text() == kubernetes_command.monitoring()

    def test_serves_config_is_the_files(self, overlay, ray_service):
        ours = serve_config(ray_service)
        theirs = yaml.safe_load(kubernetes_command.OVERLAYS[overlay].read_text())
        of_the_file = {one["name"]: one for one in theirs["applications"]}
        assert ours["logging_config"] == theirs["logging_config"]
        assert [one["name"] for one in ours["applications"]] == [name for name in of_the_file if name != "webui"]
        for application in ours["applications"]:
            original = of_the_file[application["name"]]
            assert application.get("deployments") == original.get("deployments")
            assert {**application, "args": 0} == {**original, "args": 0}
        changed = {
            (application["name"], name)
            for application in ours["applications"]
            for name in application["args"].keys() | of_the_file[application["name"]]["args"].keys()
            if application["args"].get(name) != of_the_file[application["name"]]["args"].get(name)
        }
        everywhere = {("cosygraph", "voices")}
        of_one_machine = {("cosygraph", name) for name in ("access", "tracing", "web_page_url")}
        of_one_machine |= {("watchdog", "canary_key_file"), ("watchdog", "tracing")}
        expected = {"gpu": everywhere | {("watchdog", "tracing")}, "cpu": everywhere | of_one_machine}
        assert changed == expected[overlay]

    def test_what_differs_is_the_cluster_configs(self, ray_service):
        ours = serve_config(ray_service)
        cluster = yaml.safe_load(node_environment.CONFIG.read_text())
        assert (ours["proxy_location"], ours["http_options"]) == (cluster["proxy_location"], cluster["http_options"])
        (graph, dog), (their_graph, their_dog) = (
            [one["args"] for one in config["applications"]] for config in (ours, cluster)
        )
        assert graph["access"] == their_graph["access"] and graph["tracing"] == their_graph["tracing"]
        assert dog["canary_key_file"] == their_dog["canary_key_file"]
        assert dog["tracing"]["zipkin_url"] == their_dog["tracing"]["zipkin_url"]

    def test_every_ray_pod_has_the_nodes_environment(self, overlay, ray_service):
        expected = node_environment.variables(node_environment.CONFIG)
        config = Application(serve_config(ray_service))
        expected |= config.proxy_environment() | {"PYTHONPATH": kubernetes_command.IN_THE_IMAGE}
        cluster = ray_service["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            [container] = group["template"]["spec"]["containers"]
            assert {one["name"]: one["value"] for one in container["env"]} == expected
        assert json.loads(expected["COSYGRAPH_TRACING"])["keys_file"] == "/etc/cosygraph/keys.yaml"

    def test_the_alerts_are_the_projects(self, documents):
        rules = yaml.safe_load((ROOT / "cluster" / "prometheus" / "rules.yml").read_text())
        assert named(documents, "PrometheusRule")["cosygraph"]["spec"] == rules

    def test_series_have_the_labels_that_the_alerts_ask_for(self, documents):
        monitors = named(documents, "PodMonitor")
        scraped = yaml.safe_load((ROOT / "cluster" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        assert monitors.keys() == {job["job_name"] for job in scraped}
        for job in scraped:
            [endpoint] = monitors[job["job_name"]]["spec"]["podMetricsEndpoints"]
            assert {"targetLabel": "job", "replacement": job["job_name"], "action": "replace"} in endpoint[
                "relabelings"
            ]
            kept = [one["regex"] for one in endpoint["metricRelabelings"]]
            assert kept == [one["regex"] for one in job["metric_relabel_configs"]]
        [endpoint] = monitors["ray"]["spec"]["podMetricsEndpoints"]
        assert [one for one in endpoint["relabelings"] if one["targetLabel"] == "node"]

    def test_zipkin_is_set_up_as_by_the_launcher(self, documents):
        [container] = named(documents, "Deployment")["zipkin"]["spec"]["template"]["spec"]["containers"]
        found = {one["name"]: one["value"] for one in container["env"]}
        expected = zipkin.settings(9411, Server.of("http://opensearch:9200").settings())
        del expected["MEM_MAX_SPANS"]  # of memory storage
        expected["ZIPKIN_QUERY_ALLOWED_ORIGINS"] = "http://zipkin:9411"
        assert {name: found[name] for name in expected} == expected
        assert container["image"] == zipkin.IMAGE

    def test_the_storage_is_the_one_that_is_tested(self, documents):
        tested = (ROOT / "tests" / "helpers" / "backends" / "opensearch.txt").read_text()
        [container] = named(documents, "StatefulSet")["opensearch"]["spec"]["template"]["spec"]["containers"]
        version = container["image"].rpartition(":")[2]
        assert f"OpenSearch {version}," in tested.splitlines()[0]

    def test_jobs_run_when_the_document_says(self, documents):
        told = (ROOT / "docs" / "storage.md").read_text()
        commands = []
        for job in named(documents, "CronJob").values():
            [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
            args = parsed(container)
            written = " ".join(container["args"][2:])
            schedule = re.escape(job["spec"]["schedule"])
            assert re.search(rf"^    {schedule} .*cluster {args.command}\b.*{written}", told, re.MULTILINE) or (
                args.command == "links" and re.search(rf"^    {schedule} .*cluster links", told, re.MULTILINE)
            )
            assert args.storage_url == "http://opensearch:9200"
            commands.append(args.command)
        assert sorted(commands) == ["links", "links", "retention"]


def parsed(container: dict) -> argparse.Namespace:
    command = container["command"] + container.get("args", [])
    assert command[:3] == ["python", "-m", "cluster"]
    return cli.parser().parse_args(command[3:])


class TestNames:
    """Nothing is named twice differently: what one place names, another one has."""

    def test_images(self, overlay, documents):
        images = {container["image"] for _, pod in pod_templates(documents) for container in pod["spec"]["containers"]}
        assert {image for image in images if "cosygraph" in image} == {f"{IMAGES_OF_OURS}:{tag(overlay)}"}
        names = [image.rpartition(":")[0] for image in images]
        assert len(names) == len(set(names)), f"one image in two versions: {images}"
        assert all(":" in image and not image.endswith(":latest") for image in images)
        compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
        public = {one["image"] for one in compose if not one["image"].startswith("cosygraph:")}
        assert public <= images

    def test_the_targets_of_the_dockerfile_are_the_overlays(self):
        targets = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert set(OVERLAYS) <= set(targets)

    def test_secrets(self, documents):
        known = {name: set(keys) for name, keys in kubernetes_command.SECRETS.items()}
        used = set()
        for key, value in everything(documents):
            if key == "secretKeyRef":
                assert value["key"] in known[value["name"]]
                used.add(value["name"])
            elif key == "secretName":
                used.add(value)
            elif key == "secretRef":
                used.add(value["name"])
            elif key == "secret":
                wanted = {item["key"] for item in value.get("items", ())}
                assert wanted <= known[value["secretName"]]
        assert used == known.keys()

    def test_files_of_secrets_are_where_the_config_looks(self, ray_service):
        keys = set(kubernetes_command.SECRETS["cosygraph-keys"])
        config = serve_config(ray_service)
        files = {value for key, value in everything(config) if key in ("keys_file", "canary_key_file")}
        assert {Path(file).name for file in files} == keys
        cluster = ray_service["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            for file in files:
                assert volumes[mounts[str(Path(file).parent)]]["secret"]["secretName"] == "cosygraph-keys"
            spool = Path(config["applications"][0]["args"]["tracing"]["spool_dir"])
            assert "emptyDir" in volumes[mounts[str(spool.parent)]]

    def test_volumes(self, documents):
        for name, pod in pod_templates(documents):
            claims = next((one for one in documents if f"{one['kind']} {one['metadata']['name']}" == name), {})
            claimed = [one["metadata"]["name"] for one in claims.get("spec", {}).get("volumeClaimTemplates", ())]
            volumes = [volume["name"] for volume in pod["spec"].get("volumes", ())] + claimed
            mounted = {mount["name"] for one in pod["spec"]["containers"] for mount in one.get("volumeMounts", ())}
            assert mounted == set(volumes) and len(volumes) == len(set(volumes)), name

    def test_services_lead_to_ports(self, documents):
        for name, service in named(documents, "Service").items():
            pods = chosen(documents, service["spec"]["selector"])
            assert len(pods) == 1, f"{name} leads to {[one for one, _ in pods]}"
            ports = container_ports(pods[0][1])
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"]

    def test_addresses_name_services(self, documents):
        services = named(documents, "Service")
        known = {f"{name}:{port['port']}" for name, one in services.items() for port in one["spec"]["ports"]}
        texts = [value for _, value in everything(documents) if isinstance(value, str)]
        texts += [value for value in flat_lists(documents) if isinstance(value, str)]
        hosts = {urlsplit(url).netloc for text in texts for url in re.findall(r"https?://[\w.:-]+", text)}
        hosts |= {value for key, value in everything(documents) if key == "redisAddress"}
        local = {host for host in hosts if host.startswith("127.0.0.1:")}
        assert hosts - local == known - {"gate:9412"}
        assert local == {"127.0.0.1:8000"}  # the proxy on the watchdog's own node

    def test_ports_have_names_once(self, documents):
        for name, pod in pod_templates(documents):
            for container in pod["spec"]["containers"]:
                ports = container.get("ports", ())
                assert len({port["name"] for port in ports}) == len({port["containerPort"] for port in ports}), name
                for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                    probe = container.get(kind, {})
                    asked = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
                    assert asked is None or asked in container_ports(pod), name

    def test_the_api_is_where_serve_listens(self, ray_service):
        port = serve_config(ray_service)["http_options"]["port"]
        cluster = ray_service["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert container_ports(group["template"])["serve"] == port

    def test_network_policies_choose_pods_and_ports_that_are_there(self, documents):
        components = {pod["metadata"]["labels"][COMPONENT] for _, pod in pod_templates(documents)}
        open_ports = {port for _, pod in pod_templates(documents) for port in container_ports(pod).values()}
        outside = {53, 443, 6443}
        for policy in named(documents, "NetworkPolicy").values():
            for key, value in everything(policy):
                if key == COMPONENT:
                    assert value in components
                elif key == "matchExpressions":
                    assert all(set(one["values"]) <= components for one in value)
                elif key == "port":
                    assert value in open_ports | outside

    def test_who_calls_may_call(self, documents):
        """Each address in a pod's settings is allowed on both ends."""
        calls = [("ray", "zipkin", 9411), ("ray", "redis", 6379), ("zipkin", "opensearch", 9200)]
        calls += [("links", "opensearch", 9200), ("retention", "opensearch", 9200), ("gate", "zipkin", 9411)]
        for caller, called, port in calls:
            assert allowed(documents, caller, called, port, "egress")
            assert allowed(documents, called, caller, port, "ingress")
        assert not allowed(documents, "redis", "gate", 6379, "ingress")
        assert not allowed(documents, "opensearch", "ray", 9200, "ingress")

    def test_monitors_choose_pods_and_ports_that_are_there(self, documents):
        for name, monitor in named(documents, "PodMonitor").items():
            pods = chosen(documents, monitor["spec"]["selector"]["matchLabels"])
            assert pods, name
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                assert all(endpoint["port"] in container_ports(pod) for _, pod in pods)

    def test_the_gate_is_run_where_its_service_leads(self, documents):
        [container] = named(documents, "Deployment")["gate"]["spec"]["template"]["spec"]["containers"]
        args = parsed(container)
        [port] = named(documents, "Service")["gate"]["spec"]["ports"]
        assert (args.command, args.gate_port, args.zipkin_url) == ("gate", port["port"], "http://zipkin:9411")
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert str(args.viewers.parent) in mounts and str(args.run_dir) in mounts

    def test_budgets_choose_one_kind_of_pods_and_let_the_last_one_stay(self, documents):
        controllers = named(documents, "Deployment") | named(documents, "StatefulSet")
        budgets = named(documents, "PodDisruptionBudget")
        assert budgets.keys() == controllers.keys(), "whatever is not Ray's has a budget"
        for name, budget in budgets.items():
            spec, controller = budget["spec"], controllers[name]
            assert [pod for pod, _ in chosen(documents, spec["selector"]["matchLabels"])] == [
                f"{controller['kind']} {name}"
            ]
            assert controller["spec"]["replicas"] - spec["maxUnavailable"] >= 1, name
            assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "or a pod that can't start holds up every drain"

    def test_two_pods_of_a_service_are_spread_over_nodes(self, documents):
        for controller in named(documents, "Deployment").values():
            pod = controller["spec"]["template"]
            [spread] = pod["spec"]["topologySpreadConstraints"]
            assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            assert spread["topologyKey"] == "kubernetes.io/hostname"

    def test_labels_choose_their_own_pods(self, documents):
        for one in documents:
            if selector := one.get("spec", {}).get("selector", {}).get("matchLabels"):
                if one["kind"] not in ("PodMonitor", "PodDisruptionBudget"):
                    assert selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()


def by_name(documents: list[dict]) -> dict[tuple[str, str], dict]:
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def tag(overlay: str) -> str:
    images = yaml.safe_load((FOLDER / "overlays" / overlay / "kustomization.yaml").read_text())["images"]
    return images[0]["newTag"]


def flat_lists(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from (one for one in value if not isinstance(one, dict | list))
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from flat_lists(inside)


def chosen(documents: list[dict], labels: dict) -> list[tuple[str, dict]]:
    return [
        (name, pod) for name, pod in pod_templates(documents) if labels.items() <= pod["metadata"]["labels"].items()
    ]


def container_ports(pod: dict) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in pod["spec"]["containers"] for port in one.get("ports", ())}


def allowed(documents: list[dict], of: str, other: str, port: int, direction: str) -> bool:
    """Tell whether a policy lets pods of the component `of` have traffic with those of `other`."""
    for policy in named(documents, "NetworkPolicy").values():
        if not selects(policy["spec"]["podSelector"], of):  # every pod of ours is part of cosygraph
            continue
        for rule in policy["spec"].get(direction, ()):
            peers = rule.get("to" if direction == "egress" else "from")
            met = peers is None or any(
                "namespaceSelector" not in peer and selects(peer["podSelector"], other) for peer in peers
            )
            ports = rule.get("ports")
            if met and (ports is None or port in [one["port"] for one in ports]):
                return True
    return False


def selects(selector: dict, component: str) -> bool:
    labels = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    return labels.get(COMPONENT, component) == component and all(component in one["values"] for one in expressions)


class TestSafety:
    def test_pods_obey_the_namespaces_standard(self, documents):
        """The level `restricted` wants no root, no capabilities, no privilege, and the default seccomp profile."""
        namespace = named(documents, "Namespace")["cosygraph"]
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        for name, pod in pod_templates(documents):
            security = pod["spec"]["securityContext"]
            assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
            for container in pod["spec"]["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name

    def test_every_container_has_a_limit_of_memory(self, documents):
        for name, pod in pod_templates(documents):
            for container in pod["spec"]["containers"]:
                assert container["resources"]["limits"]["memory"], name

    def test_a_service_puts_no_variables_into_pods_that_read_theirs(self, documents):
        """A Service named zipkin would set ZIPKIN_PORT=tcp://…, and one named redis REDIS_PORT."""
        for name, pod in pod_templates(documents):
            assert pod["spec"]["enableServiceLinks"] is False, name

    def test_no_secret_has_a_value_here(self, documents):
        assert not named(documents, "Secret")
        for path in FOLDER.rglob("*.yaml"):
            assert not re.search(r"cosygraph_[\w-]{40,}|AKIA|BEGIN [A-Z ]*PRIVATE", path.read_text()), path

    def test_everything_is_refused_that_is_not_allowed(self, documents):
        refuse = named(documents, "NetworkPolicy")["refuse"]["spec"]
        labels = refuse["podSelector"]["matchLabels"]
        assert refuse.keys() == {"podSelector", "policyTypes"}, "with a rule it would allow something"
        assert refuse["policyTypes"] == ["Ingress", "Egress"]
        assert len(chosen(documents, labels)) == len(pod_templates(documents))


RENDERERS = [kustomize.render, *([kustomize.render_by_kubectl] if kustomize.KUBECTL else [])]


class TestRendering:
    @pytest.mark.parametrize("renderer", RENDERERS)
    def test_resources_patches_images_and_the_namespace(self, tmp_path, renderer):
        def pod(image: str) -> dict:
            return {"containers": [{"name": "a", "image": image}]}

        documents = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "there"}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ours"}, "spec": pod("ours")},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": pod("other:1")},
        ]
        base, overlay = tmp_path / "base", tmp_path / "overlay"
        files = {
            base / "kustomization.yaml": {"resources": ["all.yaml"], "namespace": "there"},
            overlay / "kustomization.yaml": {
                "resources": ["../base"],
                "images": [{"name": "ours", "newName": "registry.example/ours", "newTag": "2"}],
                "patches": [{"path": "patch.yaml", "target": {"kind": "Pod", "name": "ours"}}],
            },
            overlay / "patch.yaml": [{"op": "add", "path": "/spec/containers/0/args", "value": ["-v"]}],
        }
        for path, content in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(content))
        (base / "all.yaml").write_text(yaml.safe_dump_all(documents))
        namespace, ours, other = documents
        ours["metadata"]["namespace"] = other["metadata"]["namespace"] = "there"
        ours["spec"]["containers"][0] |= {"image": "registry.example/ours:2", "args": ["-v"]}
        assert by_name(renderer(overlay)) == by_name([namespace, ours, other])

    if kustomize.KUBECTL:

        def test_kubectl_makes_the_same_documents(self, overlay, documents):
            assert by_name(kustomize.render_by_kubectl(FOLDER / "overlays" / overlay)) == by_name(documents)

    def test_an_unknown_feature_is_not_left_out_in_silence(self, tmp_path):
        (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: a-\n")
        with pytest.raises(ValueError, match="namePrefix"):
            kustomize.render(tmp_path)

    def test_a_patch_that_meets_nothing_is_an_error(self, tmp_path):
        (tmp_path / "kustomization.yaml").write_text(
            "resources: []\npatches: [{path: a.yaml, target: {kind: Service, name: b}}]\n"
        )
        with pytest.raises(ValueError, match="meets no document"):
            kustomize.render(tmp_path)


@pytest.fixture
def credentials(monkeypatch):
    values = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-central-1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    return values


class TestSecretsCommand:
    def test_it_prints_what_the_manifests_ask_for(self, credentials, capsys):
        assert cli.main(["kubernetes", "--secrets"]) == 0
        printed = capsys.readouterr()
        namespace, *made = yaml.safe_load_all(printed.out)
        for one in (namespace, *made):
            kubernetes_schemas.validate(one)
        values = {one["metadata"]["name"]: one["stringData"] for one in made}
        assert {name: set(keys) for name, keys in values.items()} == {
            name: set(keys) for name, keys in kubernetes_command.SECRETS.items()
        }
        assert {one["metadata"]["namespace"] for one in made} == {namespace["metadata"]["name"]}
        assert values["cosygraph-bucket"] == credentials
        keys = parse(values["cosygraph-keys"]["keys.yaml"], Path("keys.yaml")).by_hash()
        first = re.search(r"cosygraph_\S+", printed.err)[0]
        assert first not in printed.out
        assert keys[digest(first)].roles == {"synthesize", "voices", "view-traces"}
        assert keys[digest(values["cosygraph-keys"]["canary.key"])].roles == {"synthesize"}

    def test_values_are_new_each_time(self, credentials):
        (*_, first), (*_, second) = (kubernetes_command.new_secrets(credentials) for _ in range(2))
        assert first != second
        one, other = (kubernetes_command.new_secrets(credentials)[0] for _ in range(2))
        for left, right in zip(one[1:4], other[1:4], strict=True):
            assert left["stringData"] != right["stringData"]

    def test_credentials_that_are_missing_are_named(self, credentials, monkeypatch, capsys):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert cli.main(["kubernetes", "--secrets"]) == 1
        told = capsys.readouterr()
        assert "set AWS_SECRET_ACCESS_KEY in the environment" in told.err and told.out == ""


class TestTheCommand:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch) -> Path:
        for name in ("base", "overlays/cpu", "overlays/gpu"):
            (tmp_path / name).mkdir(parents=True)
        monkeypatch.setattr(kubernetes_command, "FOLDER", tmp_path)
        monkeypatch.setattr(kubernetes_command, "ROOT", tmp_path)
        return tmp_path

    def test_it_writes_all_made_files_and_says_so(self, folder, capsys):
        assert cli.main(["kubernetes"]) == 0
        written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))
        assert written == ["base/monitoring.yaml", "overlays/cpu/serve.yaml", "overlays/gpu/serve.yaml"]
        assert capsys.readouterr().out.count(": written") == 3
        assert cli.main(["kubernetes"]) == 0
        assert capsys.readouterr().out.count(": as it was") == 3

    def test_another_config_and_another_bucket(self, folder):
        source = ROOT / "cluster" / "serve.cosyvoice3.yaml"
        command = ["kubernetes", "--overlay", "gpu", "--config", str(source), "--voices-url", "gs://mine/voices"]
        assert cli.main([*command, "--zipkin-ui-url", "https://traces.example"]) == 0
        assert not (folder / "overlays" / "cpu" / "serve.yaml").exists()
        operations = yaml.safe_load((folder / "overlays" / "gpu" / "serve.yaml").read_text())
        args = yaml.safe_load(operations[0]["value"])["applications"][0]["args"]
        assert args["engine"] == "cosyvoice3" and args["voices"] == {"url": "gs://mine/voices", "protocols": ["gs"]}
        assert args["tracing"]["zipkin_ui_url"] == "https://traces.example"

    @pytest.mark.parametrize(
        "arguments, told",
        [
            (["--config", "cluster/serve.gpu.yaml"], "add --overlay cpu or --overlay gpu"),
            (["--overlay", "cpu", "--config", "none.yaml"], "none.yaml can't be read"),
            (["--voices-url", "/srv/voices"], "write s3://BUCKET/FOLDER"),
            (["--zipkin-ui-url", "traces.example"], "write https://traces.example"),
        ],
    )
    def test_a_mistake_is_told_with_its_remedy(self, folder, arguments, told, capsys):
        assert cli.main(["kubernetes", *arguments]) == 1
        assert told in capsys.readouterr().err
        assert not list(folder.rglob("*.yaml"))

    def test_a_foreign_config_is_refused(self, tmp_path):
        path = tmp_path / "serve.yaml"
        path.write_text("applications: [{name: a, import_path: 'other:build', args: {}}]")
        with pytest.raises(CliError, match="no application graph:build"):
            kubernetes_command.serve_config(path)


def test_the_jar_and_the_image_of_zipkin_are_one_version():
    assert zipkin.IMAGE.endswith(f":{zipkin_jar.VERSION}")
