"""Keep a private Ray cluster on 127.0.0.1.

Two habits of Ray 2.60 prevent that, and no setting turns them off:

- Ray binds its gRPC servers (GCS, raylet, every worker) to loopback only if the node's address is 127.0.0.1. But it
  replaces a loopback address by the machine's routable one, in `ray start` and in every driver. So loopback can't be
  asked for.
- Every Serve replica opens a gRPC server for other deployments on all interfaces. It unpickles what it is sent, so any
  machine that reaches it can run code.

`keep()` changes both in this process. `sitecustomize.py` beside this file does so in every Python process of a cluster
whose PYTHONPATH names this folder. Afterwards the launcher checks all listeners, and warns.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from types import ModuleType


def keep() -> None:
    """Keep Ray in this process on 127.0.0.1. Imports nothing of Ray; may be called more than once."""
    for name in _MENDED:
        if name in sys.modules:
            _mend(sys.modules[name])
    if not any(isinstance(finder, _MendOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MendOnImport())


def _no_swap(services: ModuleType) -> None:
    setattr(services, "resolve_ip_for_localhost", lambda host: host)  # noqa: B010 (a module has no such attribute, says mypy)


def _grpc_on_loopback(tls_utils: ModuleType) -> None:
    bind = tls_utils.add_port_to_grpc_server

    def bind_to_loopback(server, address: str):
        return bind(server, address.replace("[::]:", "127.0.0.1:"))

    setattr(tls_utils, "add_port_to_grpc_server", bind_to_loopback)  # noqa: B010


_MENDED = {"ray._private.services": _no_swap, "ray._common.tls_utils": _grpc_on_loopback}


def _mend(module: ModuleType) -> None:
    if not getattr(module, "_kept_on_loopback", False):
        _MENDED[module.__name__](module)
        setattr(module, "_kept_on_loopback", True)  # noqa: B010


class _MendOnImport:
    """Mends a module when it is first imported, so that a process that never uses Ray never pays for it."""

    def find_spec(self, name, path=None, target=None):
        if name not in _MENDED:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_then_mend(module):
            execute(module)
            _mend(module)

        spec.loader.exec_module = execute_then_mend
        return spec
