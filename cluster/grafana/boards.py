"""The panels of each dashboard."""

from __future__ import annotations

from cluster.grafana import APPLICATION, Dashboard, Panel, quantile, rate, share

SPEECH = 'mode!="none"'  #: requests that said what they want spoken
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
        Panel("Voices that the ingress knew", {"{{result}}": rate("voice_cache_total", "result")}, "reqps"),
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
            about="ADMISSION is the wait to be let into the graph",
        ),
        Panel("Waiting for the device (p95)", {"{{stage}}": quantile(0.95, "batch_wait_seconds", "stage")}, "s"),
        Panel(
            "Calls per second that went wrong",
            {"{{stage}} {{outcome}}": rate("stage_seconds_count", "stage", "outcome", where='outcome!="ok"')},
            "reqps",
        ),
        Panel(
            "Healthy replicas",
            {"{{deployment}}": f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{APPLICATION}}})"},
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
            {"GPU {{GpuIndex}}": "avg by (GpuIndex) (ray_node_gpus_utilization)"},
            "percent",
            device=True,
        ),
        Panel(
            "GPU memory",
            {
                "used {{GpuIndex}}": "sum by (GpuIndex) (ray_node_gram_used) * 1e6",
                "free {{GpuIndex}}": "sum by (GpuIndex) (ray_node_gram_available) * 1e6",
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
        Panel("CPU of the node", {"{{instance}}": "avg by (instance) (ray_node_cpu_utilization)"}, "percent"),
    ),
)

TRACING = Dashboard(
    "cosygraph-tracing",
    "Cosygraph: tracing health",
    (
        Panel("Spans per second, by what became of them", {"{{fate}}": rate("spans_total", "fate")}),
        Panel("Share of spans that is kept", {"kept": share("spans_total", 'fate="kept"', "")}, "percentunit"),
        Panel("Kept traces that wait to be sent", {"waiting": f"sum(ray_cosygraph_traces_waiting{{{APPLICATION}}})"}),
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

BOARDS = (OVERVIEW, STAGES, DIALECTS, BATCHING, TRACING)
