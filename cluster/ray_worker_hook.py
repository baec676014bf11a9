"""Prepare each of Ray's worker processes as it starts, before Ray knows what it will run."""

import sys


def prepare() -> None:
    """Import Serve, and make its connections notice a lost node."""
    import_serve()
    try:
        from deployments.ray_internals import keep_connections_alive

        keep_connections_alive()
    except Exception:  # as below
        pass


def import_serve() -> None:
    """Import Serve now, without pandas.

    Every worker here becomes a part of Serve, so a waiting worker becomes a replica sooner. If pandas is installed
    (Gradio needs it), Serve would import it for answers that are data frames. This project has no such answers, and the
    import takes 2 s of CPU in each process. A later import of pandas still works.
    """
    # A module that is None can't be imported, and Serve goes on without. Not if pandas is imported already.
    hidden = "pandas" not in sys.modules
    if hidden:
        sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        import ray.serve  # noqa: F401
    except Exception:  # a worker that fails here never starts; the error shows where Serve is used
        pass
    finally:
        if hidden:
            del sys.modules["pandas"]
