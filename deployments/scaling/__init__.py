"""Sizes the ingress and the stages together, by what requests wait for: docs/scaling.md."""
