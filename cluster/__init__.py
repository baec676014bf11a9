"""Run Cosygraph on one machine: Zipkin, Ray and the graph, started and stopped by one command."""
