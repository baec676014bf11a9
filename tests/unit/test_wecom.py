"""The way to WeCom without Prometheus: what is asked for, what the adapter writes, and what it does when refused."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from cluster.cli_error import CliError
from cluster.monitoring import alertmanager_config
from cluster.wecom import API, Robot, Wecom
from cluster.wecom_adapter import MAX_BYTES, PER_MINUTE, RateWindow, Sender, Unavailable, app, markdown
from cluster.wecom_message import TEMPLATE, render, template
from tests.helpers.fake_wecom import AGENT, CORP, KEY, SECRET, FakeWecom

LINK = "http://127.0.0.1:9411/zipkin/?serviceName=cosyvoice3-api&minDuration=10000000&lookback=millis&millis=600000&endTs=1"


def alert(name="RequestsSlow", status="firing", **notes):
    return {
        "status": status,
        "startsAt": "2026-11-25T12:00:00.5Z",
        "labels": {"alertname": name},
        "annotations": {"summary": "Slow.", "stage": "VOCODE_WAV", "value": "12.3s", "traces": LINK} | notes,
    }


@pytest.fixture
def wecom():
    fake = FakeWecom()
    yield fake
    fake.close()


def post(fake, payload, times=1, window=None, key=KEY) -> list[httpx.Response]:
    """To an adapter, `times` times; pauses are not waited out."""

    async def ask():
        async def at_once(seconds):
            pass

        async with httpx.AsyncClient(trust_env=False) as http:
            sender = Sender(Robot(key, fake.api), http, window, at_once)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app(sender)), base_url="http://x") as client:
                return [await client.post("/alerts", json=payload) for _ in range(times)]

    return asyncio.run(ask())


def test_a_message_has_the_stage_the_value_and_the_link(wecom):
    [answer] = post(wecom, {"alerts": [alert(), alert("StageDown", "resolved")]})
    assert answer.status_code == 200
    [content] = wecom.robot
    for part in (
        '<font color="warning">RequestsSlow</font>',
        "> stage: VOCODE_WAV",
        "> value: 12.3s",
        "> since: 2026-11-25 12:00:00 UTC",
        f"[its traces]({LINK})",
        "StageDown is over",
    ):
        assert part in content


@pytest.mark.parametrize("count, truncated", [(1, 0), (200, 0), (2, 7)])
def test_a_message_fits_and_says_what_it_leaves_out(count, truncated):
    alerts = [alert(summary="每" * 3000) for _ in range(count)]
    content = markdown({"alerts": alerts, "truncatedAlerts": truncated})
    shown = content.count("[its traces]")
    assert len(content.encode()) <= MAX_BYTES and 1 <= shown <= count
    left_out = count - shown + truncated
    assert content.endswith(f"and {left_out} more") if left_out else "more" not in content.rpartition("\n")[2]


@pytest.mark.parametrize(
    "answers, status, asked",
    [
        ([-1, 45009, 0], 200, 3),  # busy, too many calls
        ([45033, 0], 200, 2),  # too many at a time
        ([-1, -1, -1], 503, 3),
        ([93000], 400, 1),  # no such robot: again would be in vain
    ],
)
def test_tries_again_only_where_that_helps(wecom, answers, status, asked):
    wecom.answers = answers
    [answer] = post(wecom, {"alerts": [alert()]})
    assert (answer.status_code, wecom.asked) == (status, asked)
    assert ("retry-after" in answer.headers) == (status == 503), "Alertmanager keeps it and sends it again"


def test_no_more_than_twenty_a_minute(wecom):
    now = 0.0
    window = RateWindow(clock=lambda: now)
    answers = post(wecom, {"alerts": [alert()]}, PER_MINUTE + 3, window)
    assert [answer.status_code for answer in answers] == [200] * PER_MINUTE + [503] * 3
    assert len(wecom.robot) == PER_MINUTE and answers[-1].headers["retry-after"] == "60"
    now = 60.0
    assert [answer.status_code for answer in post(wecom, {"alerts": [alert()]}, 1, window)] == [200]


def test_the_key_is_in_no_log_and_no_answer(wecom, caplog):
    caplog.set_level(logging.DEBUG)
    wecom.answers = [93000]
    answers = post(wecom, {"alerts": [alert()]})
    wecom.close()
    answers += post(wecom, {"alerts": [alert()]})
    assert [answer.status_code for answer in answers] == [400, 503]
    assert KEY not in caplog.text + "".join(answer.text for answer in answers) + repr(Robot(KEY))


@pytest.mark.parametrize("body", [[], {}, {"alerts": [3]}, "text"])
def test_what_is_no_webhook_is_refused(wecom, body):
    assert [answer.status_code for answer in post(wecom, body)] == [400]
    assert wecom.asked == 0


def test_a_sender_says_when_there_is_a_place_again():
    window = RateWindow(1, clock=lambda: 5.0)
    assert window.wait_s() == 0

    async def send():
        await Sender(Robot(KEY), httpx.AsyncClient(), window).send("x")

    with pytest.raises(Unavailable) as failure:
        asyncio.run(send())
    assert failure.value.after_s == 60


@pytest.mark.parametrize("named", [KEY, f"https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key={KEY}"])
def test_a_robot_is_named_by_its_key_or_its_address_and_taken_out_of_the_environment(named):
    env = {"COSYGRAPH_WECOM_ROBOT": named, "PATH": "/bin"}
    wanted = Wecom.of(env)
    assert wanted.robot == Robot(KEY, API) and wanted.application is None and env == {"PATH": "/bin"}
    assert KEY not in repr(wanted) + wanted.description


def test_a_robot_of_a_companys_own_wecom_is_asked_there_and_its_key_goes_nowhere_else():
    named = f"https://wecom.example/cgi-bin/webhook/send?key={KEY}"
    robot = Wecom.of({"COSYGRAPH_WECOM_ROBOT": named}).robot
    assert robot is not None and (robot.url, robot.key) == ("https://wecom.example/cgi-bin/webhook/send", KEY)
    environment = robot.environment()
    assert Robot.of(environment, environment["COSYGRAPH_WECOM_API"]) == robot, "the adapter's process knows it too"
    with pytest.raises(CliError):
        Wecom.of({"COSYGRAPH_WECOM_ROBOT": f"https://wecom.example/?key={KEY}"})


def test_half_a_wecom_is_a_problem():
    with pytest.raises(CliError, match="COSYGRAPH_WECOM_ROBOT is neither"):
        Wecom.of({"COSYGRAPH_WECOM_ROBOT": "https://example.org/hook"})
    with pytest.raises(CliError, match="all three"):
        Wecom.of({"COSYGRAPH_WECOM_CORP_ID": CORP})


def test_alertmanager_is_told_only_of_ways_that_there_are():
    env = {
        "COSYGRAPH_WECOM_CORP_ID": CORP,
        "COSYGRAPH_WECOM_AGENT_ID": AGENT,
        "COSYGRAPH_WECOM_SECRET": SECRET,
        "COSYGRAPH_WECOM_ROBOT": KEY,
    }
    [both] = alertmanager_config(Wecom.of(env), "http://127.0.0.1:5")["receivers"]
    assert both["wechat_configs"][0]["corp_id"] == CORP and both["wechat_configs"][0]["to_user"] == "@all"
    assert both["webhook_configs"][0]["url"] == "http://127.0.0.1:5/alerts" and KEY not in str(both)
    assert alertmanager_config(Wecom(), None)["receivers"] == [{"name": "operators"}]


def test_alertmanagers_template_is_what_the_code_makes():
    assert TEMPLATE.read_text() == template(), "run: python -m cluster.wecom_message"
    places = {name: f"{{{{ .Annotations.{name} }}}}" for name in ("summary", "stage", "value", "traces")}
    rendered = render({"status": "firing", "labels": {"alertname": "{{ .Labels.alertname }}"}, "annotations": places})
    head, *lines = rendered.splitlines()
    assert head.strip("*") in template()
    assert [line for line in lines if line not in template()] == ["> since:  UTC"]
