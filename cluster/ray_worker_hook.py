"""Called in each of Ray's worker processes as it starts, before it is known what it will be for."""

import sys


def import_serve() -> None:
    """Import Serve now, without pandas: every worker here becomes a part of Serve, so one that waits for work becomes a
    replica the sooner; and where pandas is installed (Gradio needs it), Serve would import it for answers that are data
    frames, of which we have none, at 2 s of CPU in each process. Whoever wants pandas later still gets it.
    """
    # A name that is None can't be imported, and Serve goes on without. Only where nobody has pandas yet.
    hidden = "pandas" not in sys.modules
    if hidden:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # what Python documents for a module not to be found
    try:
        import ray.serve  # noqa: F401
    except Exception:  # a worker that fails here never starts; what is wrong shows where Serve is used
        pass
    finally:
        if hidden:
            del sys.modules["pandas"]
