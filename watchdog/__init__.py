"""The watchdog: it checks the graph as a client would, follows its replicas, and restarts what is broken.

These modules decide. They import no Ray, no deployments and no HTTP, and have no clock of their own:

- `policy`: results of canaries in, decisions out.
- `canary`: the result of a canary, read off the answer.
- `replicas`: Serve's replicas in, look after look; lost and replaced ones out.
- `nodes`: Ray's nodes in, look after look; lost ones out, and those that have been made up for.
- `budget`: how often a service may be restarted.

These act:

- `canary_request`: sends the canary over HTTP.
- `serve_view`: reads Serve's replicas and Ray's nodes, and kills a replica.
- `reporter`: writes traces and metrics of what the watchdog did.
- `deployment`: the Serve deployment that joins them.
- `settings`: all settings.
"""
