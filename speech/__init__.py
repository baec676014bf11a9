"""The vocabulary of a speech request: errors, dialects, text rules, audio. Knows neither Ray nor OpenTelemetry."""
