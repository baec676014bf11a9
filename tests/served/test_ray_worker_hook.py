"""What each of Ray's workers does first: Serve is imported, and pandas only where somebody asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.ray_head import ROOT
from tests.helpers.serving import SERVICES

AFTER = "from cluster.ray_worker_hook import import_serve; import_serve(); import sys; "


def python(code: str, before: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", before + AFTER + code], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_serve_is_there_and_pandas_is_not():
    assert python("print('ray.serve' in sys.modules, 'pandas' in sys.modules)") == "True False"


def test_who_wants_pandas_has_it():
    assert python("import pandas; print(pandas.DataFrame({'a': [1, 2]})['a'].sum())") == "3"


def test_pandas_that_is_there_is_left_alone():
    assert python("print(sys.modules['pandas'] is sys)", before="import sys; sys.modules['pandas'] = sys; ") == "True"


def test_a_serve_that_can_not_be_imported_stops_no_worker():
    assert python("print('pandas' in sys.modules)", before="import sys; sys.modules['ray.serve'] = None; ") == "False"


def test_the_running_graphs_replicas_are_without(fast):
    """So Ray still calls it."""
    for service in SERVICES:
        for replica in fast.replicas(service):
            assert "/pandas/" not in Path(f"/proc/{replica['pid']}/maps").read_text()
