"""Called by `ray start` (RAY_START_HOOK) just before it starts the head's processes."""

LOOPBACK = "127.0.0.1"


def private_head(params, is_head: bool) -> None:
    """Bind to loopback, and leave out what a single node has no use for, at 90 MB and some start-up time each.

    That is the Ray Client server (which also wants a fixed port), the monitor that would start further nodes, and the
    one that sends workers' output to drivers: Serve's logs are files.
    """
    params.node_ip_address = params.node_name = LOOPBACK
    params.ray_client_server_port = None
    params.no_monitor = True
    params.include_log_monitor = False
