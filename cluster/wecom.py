"""WeCom (企业微信), two ways in: an application's own API, which Alertmanager speaks, and a group robot's webhook,
which `wecom_adapter` speaks. Both are asked for by the environment alone, because both need a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from cluster.cli_error import CliError

API = "https://qyapi.weixin.qq.com/cgi-bin/"
API_VARIABLE, ROBOT_VARIABLE = "COSYGRAPH_WECOM_API", "COSYGRAPH_WECOM_ROBOT"
CORP_VARIABLE, AGENT_VARIABLE = "COSYGRAPH_WECOM_CORP_ID", "COSYGRAPH_WECOM_AGENT_ID"
SECRET_VARIABLE, TO_VARIABLE = "COSYGRAPH_WECOM_SECRET", "COSYGRAPH_WECOM_TO"
_KEY = re.compile(r"[A-Za-z0-9_-]{8,128}")


@dataclass(frozen=True)
class Application:
    corp_id: str
    agent_id: str
    secret: str = field(repr=False)
    to: str = "@all"
    api: str = API

    def as_alertmanager_has_it(self) -> dict[str, str]:
        return {
            "api_url": self.api,
            "corp_id": self.corp_id,
            "agent_id": self.agent_id,
            "api_secret": self.secret,
            "to_user": self.to,
        }


@dataclass(frozen=True)
class Robot:
    """`key` is all that is needed to write into the group: it is the secret."""

    key: str = field(repr=False)
    api: str = API

    @property
    def url(self) -> str:
        return f"{self.api}webhook/send"

    def environment(self) -> dict[str, str]:
        """For the adapter's process; nothing else inherits it."""
        return {ROBOT_VARIABLE: self.key, API_VARIABLE: self.api}

    @classmethod
    def of(cls, env: Mapping[str, str], api: str = API) -> Robot | None:
        """Its key, or the whole address that WeCom shows. Problem where it is neither."""
        named = env.get(ROBOT_VARIABLE, "").strip()
        if not named:
            return None
        key = parse_qs(urlsplit(named).query).get("key", [""])[0] if "://" in named else named
        if not _KEY.fullmatch(key):
            raise CliError(
                f"{ROBOT_VARIABLE} holds neither a group robot's key nor its address. WeCom shows the "
                "address in the robot's settings: https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…"
            )
        return cls(key, api)


@dataclass(frozen=True)
class Wecom:
    application: Application | None = None
    robot: Robot | None = None

    @classmethod
    def of(cls, env: MutableMapping[str, str] = os.environ) -> Wecom:
        """What was asked for. Takes all of it *out* of `env`, so that nothing else that is started inherits it.

        Problem where an application is named by half.
        """
        api = _taken(env, API_VARIABLE) or API
        api = api if api.endswith("/") else api + "/"
        robot = Robot.of({ROBOT_VARIABLE: _taken(env, ROBOT_VARIABLE)}, api)
        corp, agent, secret = (_taken(env, name) for name in (CORP_VARIABLE, AGENT_VARIABLE, SECRET_VARIABLE))
        to = _taken(env, TO_VARIABLE) or "@all"
        if not any((corp, agent, secret)):
            return cls(None, robot)
        if not all((corp, agent, secret)):
            raise CliError(
                f"WeCom's application needs {CORP_VARIABLE}, {AGENT_VARIABLE} and {SECRET_VARIABLE}, all "
                f"three. For a group robot {ROBOT_VARIABLE} is enough."
            )
        return cls(Application(corp, agent, secret, to, api), robot)

    @property
    def named(self) -> str:
        """For people."""
        ways = ["WeCom's application"] * (self.application is not None) + ["WeCom's group robot"] * (
            self.robot is not None
        )
        return "alerts go to " + " and ".join(ways) if ways else "alerts are shown on its page alone"


def _taken(env: MutableMapping[str, str], name: str) -> str:
    return env.pop(name, "").strip()
