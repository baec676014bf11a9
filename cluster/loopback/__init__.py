"""Keeps a private Ray cluster on 127.0.0.1.

Ray binds its gRPC servers (GCS, raylet, every worker) to loopback alone when the node's address is 127.0.0.1, and to
every interface otherwise. But it also swaps a loopback address for the machine's routable one wherever it meets one
(`ray._private.services.resolve_ip_for_localhost`, Ray 2.60), in `ray start` and in every driver: so that nobody can
ask for loopback. `keep()` takes that swap out of this process; `sitecustomize.py` beside this file does so for every
Python process of a cluster whose PYTHONPATH names this folder.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

_PATCHED_MODULE = "ray._private.services"


def keep() -> None:
    """Make Ray in this process take 127.0.0.1 at its word. Imports nothing of Ray; may be called more than once."""
    loaded = sys.modules.get(_PATCHED_MODULE)
    if loaded is not None:
        loaded.resolve_ip_for_localhost = _as_given
        return
    if not any(isinstance(finder, _PatchOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PatchOnImport())


def _as_given(host: str) -> str:
    return host


class _PatchOnImport:
    """Patches the module when it is first imported, so that a process that never uses Ray never pays for it."""

    def find_spec(self, name, path=None, target=None):
        if name != _PATCHED_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_then_patch(module):
            execute(module)
            module.resolve_ip_for_localhost = _as_given

        spec.loader.exec_module = execute_then_patch
        return spec
