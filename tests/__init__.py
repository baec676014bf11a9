"""Tests: unit (no servers), served (real Ray, Zipkin, Chromium), proof (long), and their helpers."""
