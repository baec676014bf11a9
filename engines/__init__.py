"""Speech models as plain torch, behind one contract. Nothing in here knows Ray or OpenTelemetry."""
