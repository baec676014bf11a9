"""Stopping without breaking what is under way. Runs after every other test of `slow`, whose door it closes for good."""

import concurrent.futures
import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.helpers.live_client import send, session, until


def test_draining_refuses_the_new_and_finishes_the_old(ray_driver, slow):
    import graph

    slow.wait_ready()
    audio: list[bytes] = []
    with session(slow) as ws, concurrent.futures.ThreadPoolExecutor(2) as beside:
        send(ws, "input.text", text="The first sentence is under way. The second one waits for it. The third comes ")
        running = beside.submit(slow.post)
        time.sleep(0.6)
        draining = beside.submit(graph.drain, "slow", timeout_s=30)
        time.sleep(0.5)
        refused = slow.post()
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) >= 1 and slow.trace(refused.headers["x-trace-id"])
        assert httpx.get(f"{slow.url}/ready", trust_env=False).status_code == 503
        send(ws, "input.text", text="while the service stops.")
        send(ws, "input.done")
        said = until(ws, "session.done", audio)
        assert [one["sentence_index"] for one in said if one["type"] == "audio.done"] == [0, 1, 2] and audio
        assert "error" not in said[-1], "who has begun a text may end it"
        ended = until(ws, "error")[-1]
        assert ended["code"] == "draining" and ended["retry_after_s"] >= 1
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
        assert closed.value.rcvd.code == 1001
        assert running.result(timeout=30).status_code == 200
        assert draining.result(timeout=30) == 0
    trace = slow.trace(said[-1]["trace_id"], spans=7)
    assert not any("error" in span.get("tags", {}) for span in trace)
