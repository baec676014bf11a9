"""Acceptance drills: faults and incidents acted out on a running graph. `make drills` runs them, CI does not."""
