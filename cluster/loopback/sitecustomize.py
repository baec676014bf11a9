"""Run by Python at start-up in every process whose PYTHONPATH names this folder: see the package's docstring."""

from cluster.loopback import keep

keep()
