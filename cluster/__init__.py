"""How it all runs on one machine: Zipkin, Ray, the graph, and one command that starts and stops them."""
