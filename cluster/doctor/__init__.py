"""The doctor: reads what Zipkin, Prometheus and Serve know of the last hour and says in words what is wrong.

`python -m cluster doctor`; docs/doctor.md. It is read in this order: `evidence.py` (what was found out), one file for
each kind of finding (pure functions over the evidence), `report.py`, `apply.py`.
"""
