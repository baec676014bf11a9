"""The doctor: read what Zipkin, Prometheus and Serve know of the last hour, and say what is wrong.

`python -m cluster doctor`; docs/doctor.md. Read it in this order: `evidence.py` (what was read), one file for each kind
of finding (pure functions over the evidence), `report.py`, `apply.py`. It starts and stops nothing: of the launcher it
uses `cli_error`, the dashboard's headers, and in `command.py` the state that says where the servers are.
"""
