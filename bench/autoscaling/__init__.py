"""A simulation of the graph under load, and what Serve's policy and ours make of it: `python -m bench.scaling`."""
