"""Who may ask for what, and how often: API keys, roles, limits per caller. Nothing here imports Ray (docs/access.md)."""
