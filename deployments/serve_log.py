"""Sends the log messages of rooms that know nothing of Ray to Serve's log."""

from __future__ import annotations

import logging

#: Rooms that run in a replica and log by their modules' names. Other rooms either log to `ray.serve` or not at all.
ROOMS = ("access", "tracing", "voices", "watchdog")


def attach() -> None:
    """Make Serve's logger the parent of the rooms' loggers, in this process.

    Serve writes only its own logger's messages into the replica's log file. As a parent it also passes on changes of
    `logging_config` to them. Call it where a replica or the proxy starts.
    """
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.parent = logging.getLogger("ray.serve")
        logger.setLevel(logging.NOTSET)  # loggers cache what they are enabled for; this clears the cache
