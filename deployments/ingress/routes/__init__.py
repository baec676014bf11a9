"""The routes of the ingress: one file for each family of paths, each with an `add(app, api)`."""
