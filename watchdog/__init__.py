"""What the watchdog thinks: no Ray, no HTTP, no clock of its own. `watchdog/deployment.py` does what it decides.

- `judge.Judge`: checks, one after the other, in; what should be done about them, out.
- `budget.Budget`: how often anything may be restarted.
- `replicas.Replicas`: what Serve says of its replicas, look after look, in; those that were replaced, out.
- `canary`: what an answer to a canary request means.
"""
