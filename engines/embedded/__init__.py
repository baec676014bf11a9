"""The embedded engine: Kokoro-82M, steered toward a reference voice by a d-vector."""
