"""A library that makes a process tell another time of day: `LD_PRELOAD` it into the processes of one node.

It moves the wall clock alone. Debian's libfaketime 0.9.10 does so too, but with monotonic clocks left alone it breaks
Python's `time.sleep`, and with them moved it breaks waits.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += AHEAD_S;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


def library(folder: Path, ahead_s: int) -> Path:
    """Compile the library for a clock that is `ahead_s` ahead; skips where there is no C compiler."""
    if shutil.which("cc") is None:
        pytest.skip("another clock needs a C compiler (Debian: apt-get install gcc libc6-dev)")
    source, made = folder / "clock.c", folder / "clock.so"
    source.write_text(_SOURCE)
    command = ["cc", "-shared", "-fPIC", "-O1", f"-DAHEAD_S={ahead_s}", "-o", str(made), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return made
