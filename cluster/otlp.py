"""Ask a receiver of OTLP whether it takes traces: for `up`, `status` and the doctor."""

from __future__ import annotations

from pydantic import ValidationError

from cluster.cli_error import CliError
from tracing.export_settings import OtlpDestination
from tracing.otlp_transport import OtlpTransport
from tracing.transport import Rejected, Unavailable

TIMEOUT_S = 5.0


def destination(settings: dict) -> OtlpDestination:
    """Read the settings `tracing.otlp`.

    Raises:
        CliError: They are wrong.
    """
    try:
        return OtlpDestination.model_validate(settings)
    except ValidationError as wrong:
        raise CliError("tracing.otlp: " + "; ".join(error["msg"] for error in wrong.errors())) from None


def problem(receiver: OtlpDestination, timeout_s: float = TIMEOUT_S) -> str | None:
    """Send a request without spans, and return what is wrong; None for a receiver that takes it.

    Raises:
        CliError: A file that the settings name can't be used.
    """
    try:
        transport = OtlpTransport(receiver, timeout_s)
    except ValueError as wrong:
        raise CliError(str(wrong)) from None
    try:
        transport.check()
    except Rejected as refused:
        return f"it refuses a request without spans ({refused})"
    except Unavailable as failure:
        return (
            f"it doesn't take them ({failure.why})" if failure.why.startswith("HTTP") else f"no answer ({failure.why})"
        )
    finally:
        transport.close()
    return None
