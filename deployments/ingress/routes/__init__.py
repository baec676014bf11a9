"""The ingress's endpoints beside `/api/generate`: one file a noun, each with an `add(app, api)`."""
