"""A cable that is slow and loses packets, as a process: it carries frames between two TAP devices that it makes.

    python slow_link.py INNER OUTER DELAY_S LOSS

The kernel's own netem does the same, where it was built with it. The devices end with the process.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 65_536


def tap(name: str) -> int:
    """Make a TAP device; returns its file."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def carry(one: int, other: int, delay_s: float, loss: float) -> None:
    """Carry frames both ways until this process ends."""
    ends = {one: other, other: one}
    under_way: deque[tuple[float, int, bytes]] = deque()  # when it arrives, where, the frame
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    while True:
        wait_ms = max(0.0, under_way[0][0] - time.monotonic()) * 1000 if under_way else None
        ready = poll.poll(wait_ms)
        now = time.monotonic()
        for end, _ in ready:
            try:
                for _ in range(64):
                    frame = os.read(end, FRAME_BYTES)
                    if random.random() >= loss:
                        under_way.append((now + delay_s, ends[end], frame))
            except OSError:  # no more frames for now, or the device is down
                pass
        while under_way and under_way[0][0] <= now:
            _, end, frame = under_way.popleft()
            try:
                os.write(end, frame)
            except OSError:  # it is down or full: the frame is lost
                pass


if __name__ == "__main__":
    inner, outer = tap(sys.argv[1]), tap(sys.argv[2])
    print("ready", flush=True)
    carry(inner, outer, float(sys.argv[3]), float(sys.argv[4]))
