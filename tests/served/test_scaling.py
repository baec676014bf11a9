"""The promises of the Serve configs: fractions of a GPU, and replicas that follow the load."""

import concurrent.futures
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.keeping import eventually
from tests.helpers.serving import CLUSTER, SERVICES, App


def deployments(file: str) -> dict[str, dict]:
    """The deployments' entries in a Serve config file."""
    return {
        entry["name"]: entry for entry in yaml.safe_load((CLUSTER / file).read_text())["applications"][0]["deployments"]
    }


@pytest.mark.parametrize("file", ["serve.cpu.yaml", "serve.gpu.yaml"])
def test_a_config_names_every_service_and_listens_on_loopback(file):
    config = yaml.safe_load(Path(CLUSTER / file).read_text())
    assert config["http_options"]["host"] == "127.0.0.1"
    limits = config["applications"][0]["args"]["limits"]
    found = deployments(file)
    assert found.keys() == SERVICES
    for name, entry in found.items():
        assert entry.get("max_ongoing_requests", 256) >= limits["max_in_flight"], name
    assert all("autoscaling_config" in found[name] for name in SERVICES - {"cosyvoice3-api"})


def test_options_that_a_config_leaves_out_have_the_codes_values(ray_driver, fast):
    """`fast` runs from serve.cpu.yaml, which repeats none of them."""
    from ray import serve

    # serve.status(), the public call, has no options.
    details = serve.context._get_global_client().get_serve_details()["applications"]["fast"]["deployments"]
    for name in SERVICES:
        options = details[name]["deployment_config"]
        assert options["max_queued_requests"] == -1, name
        assert (options["health_check_period_s"], options["health_check_timeout_s"]) == (3, 3), name
        assert options["graceful_shutdown_timeout_s"] == (60 if name in ("tts-service", "vocoder-service") else 30)


def test_replicas_are_placed_by_their_fraction_of_a_gpu(ray_driver, slow):
    """`slow` runs from serve.gpu.yaml on logical GPUs."""
    import ray
    from ray.util.state import list_actors

    wanted = {
        name: entry["ray_actor_options"].get("num_gpus", 0) for name, entry in deployments("serve.gpu.yaml").items()
    }
    assert len({fraction for fraction in wanted.values() if fraction}) >= 3, "each stage has its own fraction"
    held = {}
    here = ray.get_runtime_context().gcs_address  # else Ray searches, and other Rays may run on this machine
    for actor in list_actors(address=here, filters=[("state", "=", "ALIVE")], detail=True, limit=1000):
        for name in SERVICES:
            if f"slow#{name}#" in (actor.name or ""):
                held[name] = (actor.required_resources or {}).get("GPU", 0)
    assert held == pytest.approx(wanted)


def eventually_one_replica(app: App) -> None:
    eventually(lambda: app.replicas("tts-service"), lambda found: len(found) == 1, within_s=60)


@pytest.mark.proof
def test_tts_scales_up_under_load_and_down_again(slow):
    slow.wait_ready()
    eventually_one_replica(slow)  # tests before this one may have made it grow
    statuses, most = [], 1
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(slow.post) for _ in range(30)]
        while not all(future.done() for future in waiting):
            most = max(most, len(slow.replicas("tts-service")))
            time.sleep(0.2)
        statuses = [future.result().status_code for future in waiting]
    assert set(statuses) == {200}, "no request may fail while the service scales"
    assert most == 2
    eventually_one_replica(slow)
    assert slow.post().status_code == 200
