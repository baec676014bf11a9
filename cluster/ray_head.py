"""A private Ray head on loopback: its own folder, its own ports, its own session, so that several never meet.

Nothing here calls `ray stop`, which ends every Ray of the machine. Ray's token authentication stays off unless
RAY_AUTH_MODE says otherwise: every port is on loopback. On a machine shared with people you don't trust, use
`RAY_AUTH_MODE=token` (Ray then takes the token from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster import haproxy, loopback, processes
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, any_free, require_free

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN_S = 120.0
#: A request's arrays are a few megabytes; the default, 30 % of the machine's memory, would starve a second head.
OBJECT_STORE_BYTES = 512 * 1024 * 1024

#: Environment of every Ray process. Settings that make Serve faster belong here, with what was measured.
SETTINGS: dict[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Spans are our own layer; see the tracing package.
    "RAY_START_HOOK": "cluster.ray_start_hook.private_head",
    # A graph with its watchdog is up in 44 and 46 s instead of 56 and 62 (two cores, nothing else running). The name is
    # Ray's own: through the documented way, a runtime environment, the workers that wait ready would not have it. It
    # also makes connections notice a node that is gone without a word (`deployments/ray_internals.py`).
    "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "cluster.ray_worker_hook.prepare",
    # One event loop a replica: every hop to Serve's router thread and back costs a wake-up or two. Nothing of ours
    # blocks the loop: models and decoding have threads.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Replicas call each other, and the proxy calls the ingress, by Serve's gRPC instead of by Ray's actor calls, which
    # take two messages and 4 ms of the caller's CPU each. Large arrays ride in neither: deployments/arrays.py.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # Clips and answers (up to a megabyte or so) ride inside messages; through the object store each costs the raylet
    # more than the copy: it fell from 11 to 6 ms of CPU a request (bench.overhead's load).
    "RAY_max_direct_call_object_size": "2000000",
    # What the proxy answers by itself gets a trace too, and clients can't steer Serve by headers.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.ingress.proxy_middleware:middlewares",
    # Ray's own record of every task: our traces tell more, and Ray sends it even if nothing reads it.
    "RAY_task_events_report_interval_ms": "0",
    # A replica that hangs is not asked to stop nicely.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Models compute in a thread of their own, and glibc gives such a thread an arena that hands large tensors back to
    # the kernel and faults them in again. bench.served: 1.54 s of compute with these, 1.60 and 1.74 s without (single
    # runs on a noisy machine: likely a gain, not a proven figure). Tensors above 8 MB go back all the same: threads
    # that share the heap leave holes in it that the next large tensor does not fit in. In 40 requests the vocoder's
    # model grew to 1,160 MB with two threads, and to 1,600 where it kept all; it takes 2 to 4 % more CPU time.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "8000000",
    # oneDNN compiles a kernel for each shape that it meets and would keep 1,024 of them: embedding-service's are of
    # clips, which hardly ever have the same length. The embedded engine's other stages set their own number.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    # Serve's controller looks round ten times a second and takes 5 % of a core for it, idle or not; twice is enough for
    # health checks of 5 s and autoscaling delays of seconds.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # Ray makes its workers as nice as batch jobs (15): any other process of the machine would starve replicas, whom
    # people wait for, and their health checks.
    "RAY_worker_niceness": "0",
    # How long an OpenMP thread spins at a barrier before it sleeps (about 0.04 ms). libgomp's own 3 ms suit one process
    # alone on the machine; here tts and vocoder share cores, and four requests in flight took twice as long (0.35 req/s
    # against 0.61 with this; never spinning gave 0.65, but 1.63 s for a lone request against 1.47).
    "GOMP_SPINCOUNT": "4000",
    # Ray's agent renders every series of each process at every scrape. Of Ray's own, those by task name and the
    # fine buckets of Serve's latencies say nothing that ours (docs/metrics.md) don't: without them the page of a graph
    # at work is 0.9 MB instead of 1.16, and takes 53 ms of CPU instead of 69 (means of ten, an idle Xeon).
    "RAY_metric_cardinality_level": "low",
    "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "10,100,1000,10000",
    "RAY_SERVE_REPLICA_STARTUP_SHUTDOWN_LATENCY_BUCKETS_MS": "1000,10000,100000",
    # Two fixed ports for metrics that a second head on the machine would find taken.
    "AUTOSCALER_METRIC_PORT": "0",
    "DASHBOARD_METRIC_PORT": "0",
}


@dataclass(frozen=True)
class RayHead:
    process: processes.Started
    gcs_port: int
    dashboard_port: int
    folder: str  #: Ray's sessions: sockets and logs

    @property
    def address(self) -> str:
        """The address for `ray.init`; a driver calls `cluster.loopback.keep()` first."""
        return f"{LOOPBACK}:{self.gcs_port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard_port}"

    @property
    def logs(self) -> Path:
        return Path(self.folder) / "session_latest" / "logs"

    def stop(self, keep_logs_in: Path | None = None, grace_s: float = 10.0) -> str | None:
        """End its processes and remove its folder; the logs are kept where asked.

        Args:
            keep_logs_in: a folder for the logs, if they are to be kept.
            grace_s: seconds until what still runs is killed. Ray waits for replicas, so all of them pass.

        Returns:
            Why not all of the logs could be kept: a full disk must not keep anything from being stopped.
        """
        processes.stop(self.process, grace_s)
        trouble = None
        if keep_logs_in is not None and self.logs.is_dir():
            shutil.rmtree(keep_logs_in, ignore_errors=True)
            try:
                shutil.copytree(self.logs, keep_logs_in, ignore_dangling_symlinks=True)
            except OSError as failure:  # shutil.Error, with one reason for each file, is one too
                trouble = failure.strerror or str(next((reason for *_, reason in failure.args[0]), failure))
        shutil.rmtree(self.folder, ignore_errors=True)
        return trouble


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what Ray's processes, and drivers of this launcher, need beyond its own environment."""
    path = [str(Path(loopback.__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
        **SETTINGS,
        **(extra or {}),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


def start(
    dashboard_port: int,
    log: Path,
    gcs_port: int = 0,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    env: Mapping[str, str] | None = None,
    behind_haproxy: bool = False,
    remember: Callable[[RayHead], None] = lambda head: None,
) -> RayHead:
    """Start a head and wait until its dashboard answers.

    Args:
        dashboard_port: Of the dashboard.
        log: Where its output goes.
        gcs_port: Of its control store; 0 takes any free one.
        num_cpus: Logical CPUs.
        num_gpus: Logical GPUs; they may be more than there are, and Ray then only does the bookkeeping.
        remember: Called before the head is ready, so that it can be stopped whatever happens next.
        env: More environment of its processes.
        behind_haproxy: Serve's HAProxy mode.

    Raises:
        CliError: A port is taken, or Ray doesn't come up.
    """
    require_free(dashboard_port, "Ray's dashboard", "--dashboard-port")
    gcs_port = gcs_port or any_free()
    require_free(gcs_port, "Ray's control store", "--ray-port")
    # Ray puts Unix sockets below this folder, and their paths must not exceed 107 bytes: a folder in the tree might.
    folder = tempfile.mkdtemp(prefix="cosygraph-", dir="/tmp")
    if behind_haproxy:
        env = {**(env or {}), **haproxy.environment(Path(folder) / "h")}
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address",
        LOOPBACK,
        "--port",
        str(gcs_port),
        "--dashboard-host",
        LOOPBACK,
        "--dashboard-port",
        str(dashboard_port),
        "--dashboard-agent-listen-port",
        "0",
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",
        "--temp-dir",
        folder,
        "--object-store-memory",
        str(OBJECT_STORE_BYTES),
    ]
    if num_cpus is not None:
        command += ["--num-cpus", str(num_cpus)]
    if num_gpus is not None:
        command += ["--num-gpus", str(num_gpus)]
    for last_try in (False, True):
        began_at = log.stat().st_size if log.exists() else 0
        process = processes.start("ray", command, log, env=environment(env), cwd=ROOT)
        head = RayHead(process, gcs_port, dashboard_port, folder)
        remember(head)
        try:
            _wait_until_ready(head, log)
            return head
        except CliError:
            head.stop()
            # Ray allows its own parts 30 s, a constant, which a busy machine may exceed: once more is worth it.
            if last_try or b"timed out during startup" not in log.read_bytes()[began_at:]:
                raise
    raise AssertionError("unreachable")


def auth_headers() -> dict[str, str]:
    """Return the headers for the dashboard's API, where Ray runs with token authentication."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        if not path.is_file():
            raise CliError(
                f"RAY_AUTH_MODE is token, but neither RAY_AUTH_TOKEN nor {path} holds one. "
                "Make one with `.venv/bin/ray get-auth-token --generate`."
            )
        token = path.read_text().strip()
    return {"Authorization": f"Bearer {token}"}


def _wait_until_ready(head: RayHead, log: Path) -> None:
    began = time.monotonic()
    while True:
        if not head.process.alive:
            raise CliError(f"Ray ended while it started. The end of {log}:\n{processes.last_lines(log)}")
        try:
            # Answered by the part that deploys applications: the last one to come up.
            answer = httpx.get(
                f"{head.dashboard_url}/api/serve/applications/", headers=auth_headers(), timeout=20, trust_env=False
            )
            if answer.status_code == 200:
                return
            reason = f"it answers {answer.status_code}"
        except httpx.HTTPError as failure:
            reason = type(failure).__name__
        if time.monotonic() - began > READY_WITHIN_S:
            raise CliError(
                f"Ray's dashboard was not ready within {READY_WITHIN_S:.0f} s ({reason}). The end of {log}:\n"
                f"{processes.last_lines(log)}"
            )
        time.sleep(0.25)
