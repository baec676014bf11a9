"""Called by `ray start` (RAY_START_HOOK) just before it starts the head's processes."""

LOOPBACK = "127.0.0.1"


def private_head(params, is_head: bool) -> None:
    """Bind to loopback, and leave out the Ray Client server: nobody uses it, and it costs 90 MB and a fixed port."""
    params.node_ip_address = params.node_name = LOOPBACK
    params.ray_client_server_port = None
