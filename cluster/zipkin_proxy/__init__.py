"""The gate before Zipkin: nginx asks for a key, lets only reads through, and logs who read what. See docs/gate.md.

Zipkin has no keys of its own. The parts:

- `nginx.conf`: the rules, with places that `configuration` fills in;
- `auth`: tells nginx for each request whose key it carries and what that key may see;
- `redacted`: Zipkin's answers without tags, for keys that may see services and durations alone;
- `options`: the command line's part;
- `process`: starts and stops it; `__main__` is that process: nginx, and the server of `auth` and `redacted`.
"""
