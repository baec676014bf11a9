"""API keys, roles and rate limits (docs/access.md). Nothing here imports Ray."""
