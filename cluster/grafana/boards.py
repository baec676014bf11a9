"""The panels of each dashboard."""

from __future__ import annotations

from cluster.grafana import APPLICATION, NODE, Dashboard, Panel, quantile, rate, share

SPEECH = 'mode!="none"'  #: requests that said what they want spoken
ON_ALL_NODES = 'application=~"$application"'
BUSY = 'mode!="none", outcome!="cancelled"'

OVERVIEW = Dashboard(
    "cosygraph-overview",
    "Cosygraph: overview",
    (
        Panel(
            "Requests per second, by how they ended",
            {"{{outcome}}": rate("requests_total", "outcome", where=SPEECH)},
            "reqps",
        ),
        Panel(
            "Request duration",
            {
                "p50": quantile(0.5, "request_seconds", where=SPEECH),
                "p95": quantile(0.95, "request_seconds", where=SPEECH),
                "p99": quantile(0.99, "request_seconds", where=SPEECH),
            },
            "s",
            about="RequestsSlow speaks where p99 is above 10 s for five minutes",
        ),
        Panel("Success ratio", {"all": share("requests_total", 'outcome="ok", mode!="none"', BUSY)}, "percentunit"),
        Panel(
            "Errors per second, by type",
            {"{{error_type}}": rate("requests_total", "error_type", where='error_type!="none"')},
            "reqps",
        ),
        Panel(
            "In the graph, and waiting to be let in",
            {
                "in the graph": f"sum(ray_cosygraph_requests_in_flight{{{APPLICATION}}})",
                "waiting": f"sum(ray_cosygraph_requests_waiting{{{APPLICATION}}})",
            },
        ),
        Panel(
            "Real-time factor (p50)",
            {"{{answer}}": quantile(0.5, "real_time_factor", "answer")},
            about="Seconds that a request took for a second of speech; of a stream, its listener's pace is in it",
        ),
        Panel(
            "First audio of streams",
            {"p50": quantile(0.5, "first_audio_seconds"), "p95": quantile(0.95, "first_audio_seconds")},
            "s",
        ),
        Panel(
            "Streams that had a gap",
            {"all": share("streams_total", 'continuous="false"', "")},
            "percentunit",
            about="StreamsRunDry speaks where more than 5 % had one for five minutes; a slow reader is no gap",
        ),
        Panel("Silence in a stream (p95)", {"p95": quantile(0.95, "stream_underrun_seconds")}, "s"),
        Panel("Voices that the ingress knew", {"{{result}}": rate("voice_cache_total", "result")}, "reqps"),
        Panel(
            "Open WebSocket sessions",
            {"{{node}}": f"sum by (node) (ray_cosygraph_sessions_open{{{APPLICATION}}})"},
            about="Each ingress replica takes limits.sessions.max_open; SessionsRefused speaks where one is full",
        ),
        Panel(
            "Ends of WebSocket sessions per second",
            {"{{reason}}": rate("sessions_total", "reason")},
            "reqps",
            about="full: our limit. stalled: a client that does not read. failed: our fault. The rest: docs/live.md",
        ),
    ),
)

STAGES = Dashboard(
    "cosygraph-stages",
    "Cosygraph: stages",
    (
        Panel("Duration by stage (p50)", {"{{stage}}": quantile(0.5, "stage_seconds", "stage")}, "s"),
        Panel("Duration by stage (p99)", {"{{stage}}": quantile(0.99, "stage_seconds", "stage")}, "s"),
        Panel(
            "On the way to a replica (p95)",
            {"{{stage}}": quantile(0.95, "queue_wait_seconds", "stage")},
            "s",
            about="ADMISSION is the wait to be let into the graph, PROXY the wait in Serve's proxy before that",
        ),
        Panel("Waiting for the device (p95)", {"{{stage}}": quantile(0.95, "batch_wait_seconds", "stage")}, "s"),
        Panel(
            "Calls per second that went wrong",
            {"{{stage}} {{outcome}}": rate("stage_seconds_count", "stage", "outcome", where='outcome!="ok"')},
            "reqps",
        ),
        Panel(
            "Healthy replicas",
            {"{{deployment}}": f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{ON_ALL_NODES}}})"},
            about="On all nodes: Serve's controller tells it, from its own node",
        ),
    ),
)

DIALECTS = Dashboard(
    "cosygraph-dialects",
    "Cosygraph: dialects",
    (
        Panel(
            "Success ratio by dialect",
            {
                "{{dialect}}": share(
                    "requests_total",
                    'outcome="ok", dialect!="none"',
                    'outcome!="cancelled", dialect!="none"',
                    "dialect",
                )
            },
            "percentunit",
            about="Of all requests but those whose client left: a dialect that is refused is broken too",
        ),
        Panel(
            "Duration by dialect (p95)",
            {"{{dialect}}": quantile(0.95, "request_seconds", "dialect", where='dialect!="none"')},
            "s",
        ),
        Panel(
            "Requests per second by dialect",
            {"{{dialect}}": rate("requests_total", "dialect", where='dialect!="none"')},
            "reqps",
        ),
        Panel(
            "Duration by dialect (p50)",
            {"{{dialect}}": quantile(0.5, "request_seconds", "dialect", where='dialect!="none"')},
            "s",
        ),
        Panel(
            "What went wrong, by dialect",
            {"{{dialect}} {{error_type}}": rate("requests_total", "dialect", "error_type", where='error_type!="none"')},
            "reqps",
        ),
        Panel("Requests by mode", {"{{mode}}": rate("requests_total", "mode", where=SPEECH)}, "reqps"),
    ),
)

BATCHING = Dashboard(
    "cosygraph-batching",
    "Cosygraph: batching and GPU",
    (
        Panel("Batch size (p50)", {"{{stage}}": quantile(0.5, "batch_size", "stage")}),
        Panel("Batch size (p95)", {"{{stage}}": quantile(0.95, "batch_size", "stage")}),
        Panel("Waiting for the device (p50)", {"{{stage}}": quantile(0.5, "batch_wait_seconds", "stage")}, "s"),
        Panel("Work per second", {"{{stage}}": rate("stage_seconds_count", "stage")}, "reqps"),
        Panel(
            "GPU utilization",
            {"{{node}}, GPU {{GpuIndex}}": f"avg by (node, GpuIndex) (ray_node_gpus_utilization{{{NODE}}})"},
            "percent",
            device=True,
        ),
        Panel(
            "GPU memory",
            {
                "{{node}}, used {{GpuIndex}}": f"sum by (node, GpuIndex) (ray_node_gram_used{{{NODE}}}) * 1e6",
                "{{node}}, free {{GpuIndex}}": f"sum by (node, GpuIndex) (ray_node_gram_available{{{NODE}}}) * 1e6",
            },
            "decbytes",
            device=True,
        ),
        Panel(
            "GPU utilization as stages say it",
            {"{{stage}}": f"avg by (stage) (ray_cosygraph_gpu_utilization{{{APPLICATION}}})"},
            "percent",
            device=True,
        ),
        Panel("CPU of the node", {"{{node}}": f"avg by (node) (ray_node_cpu_utilization{{{NODE}}})"}, "percent"),
    ),
)

TRACING = Dashboard(
    "cosygraph-tracing",
    "Cosygraph: tracing health",
    (
        Panel("Spans per second, by what became of them", {"{{fate}}": rate("spans_total", "fate")}),
        Panel("Share of spans that is kept", {"kept": share("spans_total", 'fate="kept"', "")}, "percentunit"),
        Panel(
            "Kept traces that wait to be sent",
            {"{{destination}}": f"sum by (destination) (ray_cosygraph_traces_waiting{{{APPLICATION}}})"},
        ),
        Panel(
            "Lost traces, and attempts to send that failed",
            {
                "lost": f"sum(ray_cosygraph_traces_lost_total{{{APPLICATION}}}) or vector(0)",
                "failed attempts": f"sum(ray_cosygraph_trace_sending_failures_total{{{APPLICATION}}}) or vector(0)",
            },
        ),
        Panel(
            "What Zipkin took and dropped, spans per second",
            {
                "taken": "sum(rate(zipkin_collector_spans_total[$__rate_interval]))",
                "dropped": "sum(rate(zipkin_collector_spans_dropped_total[$__rate_interval]))",
            },
        ),
        Panel(
            "Requests made while tracing was off",
            {"untraced": f"sum(ray_cosygraph_untraced_requests_total{{{APPLICATION}}}) or vector(0)"},
        ),
    ),
)

NODES = Dashboard(
    "cosygraph-nodes",
    "Cosygraph: nodes",
    (
        Panel(
            "Nodes that answer, and nodes lost",
            {
                "answer": f'sum(up{{job="ray", {NODE}}})',
                "lost": "sum(ray_cosygraph_watchdog_nodes_lost_total) or vector(0)",
            },
            about="NodeLost speaks of each lost one",
        ),
        Panel(
            "Requests per second, by node of the ingress",
            {"{{node}} {{outcome}}": rate("requests_total", "node", "outcome", where=SPEECH)},
            "reqps",
            about="Uneven: the load balancer, or too few ingresses",
        ),
        Panel(
            "Request duration (p95), by node of the ingress",
            {"{{node}}": quantile(0.95, "request_seconds", "node", where=SPEECH)},
            "s",
        ),
        Panel(
            "Calls per second of each service, by node of the replica",
            {
                "{{deployment}} {{node}}": "sum by (deployment, node) "
                f"(rate(ray_serve_deployment_request_counter_total{{{APPLICATION}}}[$__rate_interval]))"
            },
            "reqps",
        ),
        Panel(
            "Calls under way, by node of the replica",
            {
                "{{deployment}} {{node}}": "sum by (deployment, node) "
                f"(ray_serve_replica_processing_queries{{{APPLICATION}}})"
            },
        ),
        Panel(
            "On the way to a replica (p95), by node of the ingress",
            {"{{stage}} {{node}}": quantile(0.95, "queue_wait_seconds", "stage", "node")},
            "s",
            about="Higher on one node: its calls cross the network, or its replicas are full",
        ),
        Panel("CPU", {"{{node}}": f"avg by (node) (ray_node_cpu_utilization{{{NODE}}})"}, "percent"),
        Panel(
            "Memory in use",
            {"{{node}}": f"sum by (node) (ray_node_mem_used{{{NODE}}}) / sum by (node) (ray_node_mem_total{{{NODE}}})"},
            "percentunit",
        ),
        Panel("GPU", {"{{node}}": f"avg by (node) (ray_node_gpus_utilization{{{NODE}}})"}, "percent", device=True),
        Panel(
            "Kept traces that wait on each node",
            {"{{node}}": f"sum by (node) (ray_cosygraph_traces_waiting{{{APPLICATION}}})"},
            about="What waits on a node that is lost is lost with it: TracesLost counts it",
        ),
    ),
)

BOARDS = (OVERVIEW, STAGES, DIALECTS, BATCHING, TRACING, NODES)
