"""The four stage services, and what they share: batching, health, devices."""
