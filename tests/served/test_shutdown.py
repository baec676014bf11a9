"""Stopping without breaking what is under way. Runs after every other test of `slow`, whose door it closes for good."""

import concurrent.futures
import threading
import time

import httpx


def test_draining_refuses_the_new_and_finishes_the_old(ray_driver, slow):
    import graph

    slow.wait_ready()
    running = concurrent.futures.ThreadPoolExecutor(1).submit(slow.post)
    time.sleep(0.6)
    left = []
    draining = threading.Thread(target=lambda: left.append(graph.drain("slow", timeout_s=30)))
    draining.start()
    time.sleep(0.5)
    refused = slow.post()
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1 and slow.trace(refused.headers["x-trace-id"])
    assert httpx.get(f"{slow.url}/ready", trust_env=False).status_code == 503
    assert running.result(timeout=30).status_code == 200
    draining.join(timeout=30)
    assert left == [0]
