"""The Serve config of a stack: read from a file and completed by the launcher."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from access.authentication import Authenticator
from access.required import is_loopback, keys_required
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, reachable
from deployments.scaling.settings import ScalingSettings
from deployments.settings import AccessConfig, Limits
from engines import contract
from speech.dialects import DIALECTS

#: Of the graph's tracing settings, what says where traces go.
_WAY_OUT = (
    "zipkin_url",
    "zipkin_ui_url",
    "protocol",
    "otlp",
    "kafka",
    "kafka_options",
    "spans_file",
    "spool_dir",
    "spool_limit_mb",
    "retry_most_s",
)
_SECTIONS = ("tracing", "access", "limits", "voices")  #: of the graph's settings, those that the launcher looks into
GRAPH = "graph:build"  #: import path of the application that is the graph
WEB_PAGE = "webui.deployment:build"  #: import path of the application that is the web page
SCALING = "deployments.scaling.serve_policy:ScaleByWait"  #: import path of the scaling policy
WATCHDOG = "watchdog.deployment:build"  #: and of the one that watches the graph


@dataclass(frozen=True)
class Application:
    """A Serve config read from a file and completed by the launcher: the graph's application first, and behind it the
    web page's and the watchdog's, where there are any."""

    config: dict

    @classmethod
    def read(
        cls,
        path: Path,
        http_port: int,
        args: Mapping,
        host: str = LOOPBACK,
        web_page: bool = False,
        watchdog: bool = False,
    ) -> Application:
        """The config in `path`, with the HTTP server's host and port set and `args` laid over its graph's own.

        The file's engine options are for the file's engine: where `args` names another one, they are left out.
        Without `web_page` the file's web page is left out; with it, it is told where the API and Zipkin are. The same
        for `watchdog`, which is told how the graph traces too.
        """
        try:
            config = yaml.safe_load(path.read_text())
            applications = config["applications"]
        except OSError as failure:
            raise CliError(
                f"The Serve config {path} can't be read ({failure.strerror}); --config names another one."
            ) from failure
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as failure:
            raise CliError(f"{path} is no Serve config: it must be YAML with a list `applications`.") from failure
        graph, page, dog = _sorted(applications, path)
        config["http_options"] = {**_mapping(config, "http_options", path), "host": host, "port": http_port}
        own = graph.get("args") or {}
        if args.get("engine", own.get("engine")) != own.get("engine"):
            own = {key: value for key, value in own.items() if key != "engine_options"}
        graph["args"] = _laid_over(own, args)
        config["applications"] = [graph]
        api = (graph.get("route_prefix") or "/").rstrip("/")
        if page is not None and graph.get("import_path") == GRAPH:
            graph["args"] = {**graph["args"], "web_page_url": _path(page) if web_page else None}
        api_url, tracing = f"http://{reachable(host)}:{http_port}{api}", graph["args"].get("tracing") or {}
        if page is not None and web_page:
            page["args"] = _laid_over(
                page.get("args") or {},
                {"api_url": api_url, "api_docs_url": f"{api}/docs", "zipkin_ui_url": tracing.get("zipkin_ui_url")},
            )
            config["applications"].append(page)
        if dog is not None and watchdog:
            way_out = {name: tracing[name] for name in _WAY_OUT if tracing.get(name) is not None}
            dog["args"] = _laid_over(
                dog.get("args") or {},
                {"api_url": api_url, "app_name": graph.get("name", "default"), "tracing": way_out},
            )
            config["applications"].append(dog)
        return cls(config)

    @property
    def otlp(self) -> dict | None:
        """The settings of the graph's receiver of OTLP."""
        return (self._args.get("tracing") or {}).get("otlp")

    def check_engine(self) -> None:
        """Check that the engine can be made, without loading anything.

        Replicas would find out too, but after Zipkin, Ray and Serve have started. A foreign application is not checked.

        Raises:
            CliError: The engine is unknown, an option is wrong, or its weights are missing.
        """
        application = self.config["applications"][0]
        if application.get("import_path") != GRAPH:
            return
        args = application["args"]
        name = args.get("engine", "embedded")
        try:
            contract.create(name, args.get("engine_options"))
        except contract.WeightsError as error:
            raise CliError(
                f"{error}\nOptions of the engine: --engine-option NAME=VALUE, or engine_options in the config file."
            ) from error
        except (TypeError, ValueError) as error:
            raise CliError(
                f"The engine {name} can't be made: {error}\nOptions of the engine: --engine-option "
                "NAME=VALUE, or engine_options in the config file."
            ) from error

    def check_scaling(self) -> None:
        """Check the settings of the scaling policy, where the graph has it.

        Raises:
            CliError: A setting is unknown or wrong. Serve's controller would find out too, and scale nothing.
        """
        policy = self.config["applications"][0].get("autoscaling_policy") or {}
        if policy.get("policy_function") != SCALING:
            return
        try:
            ScalingSettings.model_validate(policy.get("policy_kwargs") or {})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors())
            raise CliError(
                f"The policy_kwargs of the application's autoscaling_policy are wrong: {wrong}. docs/configuration.md "
                "has all of them."
            ) from error

    def check_access(self, say: Callable[[str], None]) -> bool:
        """Tell whether API keys are required. A foreign application is not checked.

        Raises:
            CliError: The key file can't be used, or the API would be open to the network without keys.
        """
        application = self.config["applications"][0]
        host = self.config["http_options"]["host"]
        if application.get("import_path") != GRAPH:
            if not is_loopback(host):
                say(f"WARNING: {host} is open to the network, and what this application asks of callers is not known")
            return False
        try:
            args = application["args"]
            settings = AccessConfig.model_validate({name: args.get(name) or {} for name in ("access", "tracing")})
            known = Authenticator(settings.keys_file, DIALECTS.extended(args.get("dialects") or ())).known
            required = keys_required(settings.access, host, known)
        except ValueError as error:
            raise CliError(f"The access settings are wrong: {error}.") from error
        if required:
            say(f"API keys are required ({known} known)")
        elif not is_loopback(host):
            say(f"WARNING: {host} is open to the network, and no key is asked for: access.required is false")
        return required

    @property
    def name(self) -> str:
        return self.config["applications"][0].get("name", "default")

    @property
    def web_page(self) -> tuple[str, str] | None:
        """Name and path of the web page's application, where the config has one."""
        page = next((one for one in self.config["applications"] if one.get("import_path") == WEB_PAGE), None)
        return page and (page.get("name", "webui"), _path(page))

    @property
    def watchdog(self) -> str | None:
        """Name of the watchdog's application, where the config has one."""
        return self._watchdog.get("name", "watchdog") if self._watchdog is not None else None

    @property
    def canary_has_key(self) -> bool:
        """True if the config names a file with a key for the canary, or has no watchdog."""
        return self._watchdog is None or bool((self._watchdog.get("args") or {}).get("canary_key_file"))

    def give_canary_key(self, path: Path) -> None:
        """Name the file that holds the API key for the watchdog's canary."""
        if self._watchdog is not None:
            self._watchdog["args"] = {**(self._watchdog.get("args") or {}), "canary_key_file": str(path)}

    @property
    def _watchdog(self) -> dict | None:
        return next((one for one in self.config["applications"] if one.get("import_path") == WATCHDOG), None)

    def proxy_environment(self) -> dict[str, str]:
        """Return what Serve's proxy needs in its environment (deployments.ingress.proxy_middleware)."""
        tracing = self._args.get("tracing") or {}
        limits = self._args.get("limits") or {}
        return {
            "COSYGRAPH_TRACING": json.dumps(tracing | ({"keys_file": self.keys_file} if self.keys_file else {})),
            "COSYGRAPH_DEADLINE_S": str(limits.get("deadline_s", Limits().deadline_s)),
        }

    @property
    def stores_voices(self) -> bool:
        """True if the config says where voices are stored, or is a foreign application's."""
        return self.module != "graph" or bool((self._args.get("voices") or {}).get("url"))

    @property
    def keys_file(self) -> str | None:
        """The key file that the config names, in either place."""
        return (self._args.get("access") or {}).get("keys_file") or (self._args.get("tracing") or {}).get("keys_file")

    @property
    def _args(self) -> dict:
        return self.config["applications"][0].get("args") or {}

    @property
    def module(self) -> str:
        return self.config["applications"][0]["import_path"].partition(":")[0]


def _sorted(applications: object, path: Path) -> tuple[dict, dict | None, dict | None]:
    """The graph's application, the web page's and the watchdog's."""
    applications = applications if isinstance(applications, list) else []
    entries = [one for one in applications if isinstance(one, dict)]
    pages, dogs = ([one for one in entries if one.get("import_path") == ours] for ours in (WEB_PAGE, WATCHDOG))
    others = [one for one in entries if one not in pages and one not in dogs]
    if len(others) != 1 or len(pages) > 1 or len(dogs) > 1 or len(entries) != len(applications):
        raise CliError(
            f"{path} must describe exactly one application, and beside it at most the web page "
            f"(import_path: {WEB_PAGE}) and the watchdog ({WATCHDOG})."
        )
    for application in entries:
        if not isinstance(application.get("import_path"), str):
            raise CliError(f"{path}: an application has no import_path. The graph's is `import_path: {GRAPH}`.")
        args = _mapping(application, "args", path)
        if application["import_path"] == GRAPH:
            for name in _SECTIONS:
                _mapping(args, name, path)
    return others[0], pages[0] if pages else None, dogs[0] if dogs else None


def _mapping(settings: Mapping, name: str, path: Path) -> Mapping:
    """Return a section of settings; one that is left out, or has nothing below it, is empty.

    Raises:
        CliError: It is something else.
    """
    section = settings.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise CliError(f"{path}: `{name}` must hold settings, one `name: value` a line below it.")
    return section


def _path(page: Mapping) -> str:
    """The path of the web page."""
    return (page.get("route_prefix") or "").rstrip("/") + "/"


def _laid_over(below: Mapping, above: Mapping) -> dict:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if nested else value
    return merged
