"""`python -m cluster kubernetes`: make what the manifests in cluster/kubernetes share with the rest of the project.

The Serve config and the environment of the pods are made from `cluster/serve.*.yaml`, the alerts and the scraping from
`cluster/prometheus`. The rest of the manifests is written by hand. With `--secrets` it prints Secrets with new random
values instead, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from access.key_editor import KeyEditor
from cluster import node_environment, zipkin
from cluster.application import GRAPH, WATCHDOG, Application
from cluster.cli_error import CliError
from cluster.monitoring import CONFIGS
from cluster.ray_head import ROOT

FOLDER = ROOT / "cluster" / "kubernetes"
#: overlay -> the Serve config that it is made from
OVERLAYS = {"cpu": ROOT / "cluster" / "serve.cpu.yaml", "gpu": ROOT / "cluster" / "serve.cluster.yaml"}
IN_THE_IMAGE = "/opt/cosygraph"  #: where the Dockerfile puts the repository
VOICES_URL = "s3://cosygraph-voices/voices"
MADE = "# Made by `python -m cluster kubernetes`. Do not edit it."
MONITORING = "monitoring.coreos.com/v1"
ZIPKIN_LABELS, RAY_LABELS = ({"app.kubernetes.io/component": name} for name in ("zipkin", "ray"))
#: Secret -> its keys
SECRETS = {
    "cosygraph-keys": ("keys.yaml", "canary.key"),
    "cosygraph-ray-token": ("auth_token",),
    "cosygraph-redis": ("password",),
    "cosygraph-bucket": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"),
}
BUCKET_OPTIONAL = ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3")


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `kubernetes`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "kubernetes",
        parents=[run_dir],
        help="make the parts of the manifests that come from the Serve configs, or print new secrets",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Writes the made files in cluster/kubernetes (docs/kubernetes.md): Serve's config and the pods'\n"
        "environment of each overlay, the alerts, and what Prometheus scrapes.",
        epilog="examples:\n"
        "  python -m cluster kubernetes --voices-url s3://my-bucket/voices\n"
        "  python -m cluster kubernetes --overlay gpu --config cluster/serve.cosyvoice3.yaml\n"
        "  python -m cluster kubernetes --secrets | kubectl create -f -",
    )
    command.add_argument(
        "--overlay", choices=sorted(OVERLAYS), help="write this overlay's files alone (default: all of them)"
    )
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the Serve config of --overlay (default: serve.cpu.yaml for cpu, serve.cluster.yaml for gpu)",
    )
    command.add_argument(
        "--voices-url", default=VOICES_URL, metavar="URL", help="place of the stored voices (default %(default)s)"
    )
    command.add_argument(
        "--zipkin-ui-url", metavar="URL", help="address at which people open Zipkin, for the links in answers"
    )
    command.add_argument(
        "--secrets",
        action="store_true",
        help="print Secrets with new random values; the bucket's credentials come from AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION",
    )


def run(args: argparse.Namespace) -> int:
    """Write the made files, or print Secrets.

    Raises:
        CliError: A config can't be read, or what the Secrets need is missing.
    """
    if args.secrets:
        documents, key = new_secrets(os.environ)
        print(yaml.safe_dump_all(documents, sort_keys=False), end="")
        print(f"The first API key, which is shown only now: {key}", file=sys.stderr)
        return 0
    if args.config is not None and args.overlay is None:
        raise CliError("--config is the Serve config of one overlay: add --overlay cpu or --overlay gpu.")
    zipkin_ui_url = args.zipkin_ui_url and zipkin.page_address(args.zipkin_ui_url, "--zipkin-ui-url")
    overlays = [args.overlay] if args.overlay else sorted(OVERLAYS)
    files: dict[Path, str] = {}
    for overlay in overlays:
        source = args.config or OVERLAYS[overlay]
        files[FOLDER / "overlays" / overlay / "serve.yaml"] = serve_patch(
            serve_config(source, args.voices_url, zipkin_ui_url), source
        )
    files[FOLDER / "base" / "monitoring.yaml"] = monitoring()
    for path, text in files.items():
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        print(f"{path.relative_to(ROOT)}: {'written' if changed else 'as it was'}")
    return 0


def serve_config(source: Path, voices_url: str = VOICES_URL, zipkin_ui_url: str | None = None) -> dict:
    """Return the Serve config of `source` as it runs on Kubernetes.

    What any cluster needs (proxies, addresses, keys, the way to Zipkin) is as in `cluster/serve.cluster.yaml`. The web
    page is left out: it asks for no key. Everything else is the file's.

    Raises:
        CliError: A file can't be read, or is no Serve config.
    """
    config = Application.read(source, 8000, {}, watchdog=True).config
    cluster = Application.read(node_environment.CONFIG, 8000, {}, watchdog=True).config
    own, shared = (_arguments(one, GRAPH) for one in (config, cluster))
    if not own:
        raise CliError(f"{source} has no application {GRAPH}: it is no config of the graph.")
    original = yaml.safe_load(node_environment.CONFIG.read_text())
    config["proxy_location"] = original["proxy_location"]
    config["http_options"] = original["http_options"]
    way_out = {name: shared["tracing"][name] for name in ("zipkin_url", "spool_dir")}
    if zipkin_ui_url:
        way_out["zipkin_ui_url"] = zipkin_ui_url
    own["access"] = (own.get("access") or {}) | shared["access"]
    own["tracing"] = (own.get("tracing") or {}) | way_out
    own["voices"] = (own.get("voices") or {}) | _voices(voices_url)
    own.pop("web_page_url", None)
    watchdog = _arguments(config, WATCHDOG)
    if watchdog:
        watchdog["canary_key_file"] = _arguments(cluster, WATCHDOG)["canary_key_file"]
        receiver = own["tracing"].get("otlp")
        watchdog["tracing"] = way_out | ({"otlp": receiver} if receiver else {})
    return config


def _arguments(config: Mapping, import_path: str) -> dict:
    found = (one["args"] for one in config["applications"] if one.get("import_path") == import_path)
    return next(found, {})


def _voices(url: str) -> dict:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise CliError(f"--voices-url {url} is no address of an object store: write s3://BUCKET/FOLDER.")
    return {"url": url, "protocols": [scheme]}


def environment(config: dict) -> list[dict]:
    """Return the environment of every Ray container, as Kubernetes writes it."""
    variables = node_environment.without_path(Application(config)) | {"PYTHONPATH": IN_THE_IMAGE}
    return [{"name": name, "value": value} for name, value in variables.items()]


def serve_patch(config: dict, source: Path) -> str:
    """Return a JSON patch (RFC 6902) for the RayService: Serve's config, and the environment of head and workers."""
    spec, template = "/spec", "template/spec/containers/0/env"
    variables = environment(config)
    operations = [
        {"op": "add", "path": f"{spec}/serveConfigV2", "value": _dump(config)},
        {"op": "add", "path": f"{spec}/rayClusterConfig/headGroupSpec/{template}", "value": variables},
        {"op": "add", "path": f"{spec}/rayClusterConfig/workerGroupSpecs/0/{template}", "value": variables},
    ]
    return f"{MADE} Its source: {source.name}\n{_dump(operations)}"


def monitoring() -> str:
    """Return the PrometheusRule and the PodMonitors, made from `cluster/prometheus`."""
    rules = yaml.safe_load((CONFIGS / "prometheus" / "rules.yml").read_text())
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    }
    node = {"sourceLabels": ["__meta_kubernetes_pod_ip"], "targetLabel": "node", "action": "replace"}
    documents = [
        {
            "apiVersion": MONITORING,
            "kind": "PrometheusRule",
            "metadata": {"name": "cosygraph"},
            "spec": {"groups": rules["groups"]},
        },
        _pod_monitor("ray", RAY_LABELS, "metrics", jobs["ray"], [node]),
        _pod_monitor("zipkin", ZIPKIN_LABELS, "http", jobs["zipkin"], []),
    ]
    return f"{MADE}\n" + "---\n".join(_dump(document) for document in documents)


def _pod_monitor(job: str, labels: dict[str, str], port: str, scrape: Mapping, relabelings: list[dict]) -> dict:
    # The rules name jobs; the Prometheus Operator would call them namespace/name.
    endpoint = {
        "port": port,
        "path": scrape.get("metrics_path", "/metrics"),
        "relabelings": [{"targetLabel": "job", "replacement": job, "action": "replace"}, *relabelings],
        "metricRelabelings": [
            {"sourceLabels": one["source_labels"], "regex": one["regex"], "action": one["action"]}
            for one in scrape["metric_relabel_configs"]
        ],
    }
    return {
        "apiVersion": MONITORING,
        "kind": "PodMonitor",
        "metadata": {"name": job},
        "spec": {"selector": {"matchLabels": labels}, "podMetricsEndpoints": [endpoint]},
    }


def new_secrets(env: Mapping[str, str]) -> tuple[list[dict], str]:
    """Return the namespace and Secrets with new random values, and the first API key.

    Raises:
        CliError: The bucket's credentials are not in `env`.
    """
    missing = [name for name in SECRETS["cosygraph-bucket"] if not env.get(name)]
    if missing:
        raise CliError(
            f"The bucket's credentials are missing: set {', '.join(missing)} in the environment, and type the same "
            "again."
        )
    with tempfile.TemporaryDirectory(prefix="cosygraph-keys-") as folder:
        path = Path(folder) / "keys.yaml"
        editor = KeyEditor(path)
        key = editor.add("first", roles=["synthesize", "voices", "view-traces"])
        canary = editor.add("watchdog-canary", roles=["synthesize"])
        keys = path.read_text()
    bucket = {name: env[name] for name in (*SECRETS["cosygraph-bucket"], *BUCKET_OPTIONAL) if env.get(name)}
    values = {
        "cosygraph-keys": {"keys.yaml": keys, "canary.key": canary},
        "cosygraph-ray-token": {"auth_token": secrets.token_hex(32)},
        "cosygraph-redis": {"password": secrets.token_urlsafe(32)},
        "cosygraph-bucket": bucket,
    }
    namespace = yaml.safe_load((FOLDER / "base" / "namespace.yaml").read_text())
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace["metadata"]["name"]},
            "type": "Opaque",
            "stringData": values[name],
        }
        for name in SECRETS
    ]
    return [namespace, *documents], key


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and nothing as an alias."""

    def ignore_aliases(self, data: object) -> bool:
        """Return True: a reader, and a diff, want each place in full."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(data: object) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
