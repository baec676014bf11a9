"""WeCom (企业微信) and its two APIs: an application's, which Alertmanager uses, and a group robot's webhook.

`wecom_adapter` uses the webhook. Both are configured by the environment alone, because both need a secret.
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
_SEND = "webhook/send"  #: of a robot, below the API's address
_KEY = re.compile(r"[A-Za-z0-9_-]{8,128}")


@dataclass(frozen=True)
class Application:
    """An application, and the users whom it writes to."""

    corp_id: str
    agent_id: str
    secret: str = field(repr=False)
    to: str = "@all"
    api: str = API

    def to_alertmanager(self) -> dict[str, str]:
        """Return its part of Alertmanager's `wechat_configs`."""
        return {
            "api_url": self.api,
            "corp_id": self.corp_id,
            "agent_id": self.agent_id,
            "api_secret": self.secret,
            "to_user": self.to,
        }


@dataclass(frozen=True)
class Robot:
    """A group robot. Its key is the secret: it is all that writing into the group takes."""

    key: str = field(repr=False)
    api: str = API

    @property
    def url(self) -> str:
        return f"{self.api}{_SEND}"

    def environment(self) -> dict[str, str]:
        """Return the environment of the adapter's process; no other process inherits it."""
        return {ROBOT_VARIABLE: self.key, API_VARIABLE: self.api}

    @classmethod
    def of(cls, env: Mapping[str, str], api: str = API) -> Robot | None:
        """Return the robot that `env` names by its key or by the address that WeCom shows, or None.

        An address of another WeCom than the public one, as companies run, is where its robot is: the key goes nowhere
        else. `api` comes before it if it is not the public one.

        Raises:
            CliError: It is neither a key nor an address.
        """
        named = env.get(ROBOT_VARIABLE, "").strip()
        if not named:
            return None
        key = named
        if "://" in named:
            base, send, rest = named.partition(_SEND)
            key = parse_qs(urlsplit(rest).query).get("key", [""])[0] if send else ""
            api = base if api == API else api
        if not _KEY.fullmatch(key):
            raise CliError(
                f"{ROBOT_VARIABLE} is neither a group robot's key nor its address. WeCom shows the "
                "address in the robot's settings: https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…"
            )
        return cls(key, api)


@dataclass(frozen=True)
class Wecom:
    """The ways to WeCom that alerts take."""

    application: Application | None = None
    robot: Robot | None = None

    @classmethod
    def of(cls, env: MutableMapping[str, str] = os.environ) -> Wecom:
        """Return what `env` asks for, and remove it from `env`, so that no other process inherits it.

        Raises:
            CliError: An application's settings are incomplete, or the robot's are wrong.
        """
        api = _pop(env, API_VARIABLE) or API
        api = api if api.endswith("/") else api + "/"
        robot = Robot.of({ROBOT_VARIABLE: _pop(env, ROBOT_VARIABLE)}, api)
        corp, agent, secret = (_pop(env, name) for name in (CORP_VARIABLE, AGENT_VARIABLE, SECRET_VARIABLE))
        to = _pop(env, TO_VARIABLE) or "@all"
        if not any((corp, agent, secret)):
            return cls(None, robot)
        if not all((corp, agent, secret)):
            raise CliError(
                f"WeCom's application needs {CORP_VARIABLE}, {AGENT_VARIABLE} and {SECRET_VARIABLE}, all "
                f"three. For a group robot {ROBOT_VARIABLE} is enough."
            )
        return cls(Application(corp, agent, secret, to, api), robot)

    @property
    def description(self) -> str:
        """A sentence about the ways that alerts take."""
        ways = ["WeCom's application"] if self.application is not None else []
        ways += ["WeCom's group robot"] if self.robot is not None else []
        return "alerts go to " + " and ".join(ways) if ways else "alerts are shown on its page alone"


def _pop(env: MutableMapping[str, str], name: str) -> str:
    return env.pop(name, "").strip()
