"""Messages of the rooms without Ray reach the log file of a Serve replica."""

import importlib
import logging

import pytest
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

from deployments import serve_log

MODULES = [
    "access.authentication",
    "access.limiter_client",
    "tracing.exporter",
    "tracing.sender",
    "voices.fits",
    "voices.shared_list",
    "voices.store",
    "voices.sweeper",
    "watchdog.canary_request",
    "watchdog.reporter",
]


@pytest.fixture
def serve_log_folder(tmp_path):
    """Serve's own logger as a replica configures it, writing into a folder."""
    logger = logging.getLogger("ray.serve")
    before = list(logger.handlers), logger.level, logger.propagate
    configure_component_logger(
        component_name="replica",
        component_id="1",
        logging_config=LoggingConfig(logs_dir=str(tmp_path), log_level="INFO"),
        max_bytes=10**6,
        backup_count=1,
        buffer_size=1,
    )
    yield tmp_path
    for room in serve_log.ROOMS:
        logging.getLogger(room).parent = logging.root
        logging.getLogger(room).setLevel(logging.NOTSET)
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers, logger.level, logger.propagate = before


@pytest.mark.parametrize("module", MODULES)
def test_a_message_reaches_the_log_of_the_replica(module, serve_log_folder):
    log = importlib.import_module(module).log
    assert log.name == module
    log.info("before")
    serve_log.attach()
    log.info("the limiter answers")
    for handler in logging.getLogger("ray.serve").handlers:
        handler.flush()
    written = "".join(file.read_text() for file in serve_log_folder.rglob("*") if file.is_file())
    assert "the limiter answers" in written and "before" not in written
