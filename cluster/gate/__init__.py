"""The gate before Zipkin, which has no keys of its own: nginx asks for one, lets reading through, and writes down who
read what. docs/gate.md has the rules.

- `nginx.conf`: the rules, with places that `configuration` fills in.
- `viewers`: whose key it is and what it may see; nginx asks for every request.
- `stripped`: Zipkin's answers without tags, for keys that may see services and durations alone.
- `process`: starts and stops it; `__main__` is the process: nginx, and the server of the two before.
"""
