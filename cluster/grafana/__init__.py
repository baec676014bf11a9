"""Grafana's dashboards as code: `python -m cluster.grafana` writes the JSON files in `dashboards/`, which Grafana
reads.

A panel is a title, a unit and its queries; where it stands follows from its order. What the metrics mean:
docs/metrics.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "cosygraph-prometheus"}
_WIDTH, _HEIGHT = 12, 8  #: of a panel; a row is 24 wide
#: Variables of each dashboard. Grafana chooses the window; five minutes is its least with a scrape of 5 s in a month's
#: view, and one minute in an hour's.
NODE = 'node=~"$node"'
APPLICATION = f'application=~"$application", {NODE}'


@dataclass(frozen=True)
class Panel:
    """`queries`: PromQL by legend. `device`: has data only where there is a GPU."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    device: bool = False
    about: str = ""


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    panels: tuple[Panel, ...]

    def json(self) -> str:
        return (
            json.dumps(
                {
                    "uid": self.uid,
                    "title": self.title,
                    "tags": ["cosygraph"],
                    "schemaVersion": 39,
                    "editable": True,
                    "refresh": "10s",
                    "time": {"from": "now-1h", "to": "now"},
                    "templating": {
                        "list": [
                            _variable("application", "label_values(ray_cosygraph_requests_total, application)"),
                            _variable("node", 'label_values(up{job="ray"}, node)'),
                        ]
                    },
                    "links": [{"type": "dashboards", "tags": ["cosygraph"], "title": "Cosygraph", "asDropdown": True}],
                    "panels": [_placed(panel, index) for index, panel in enumerate(self.panels)],
                },
                indent=1,
                ensure_ascii=False,
            )
            + "\n"
        )


def _variable(name: str, query: str) -> dict:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "allValue": ".*",
        "refresh": 2,
        "query": query,
    }


def _placed(panel: Panel, index: int) -> dict:
    return {
        "id": index + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": {"x": index % 2 * _WIDTH, "y": index // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + number), "expr": query, "legendFormat": legend, "datasource": DATASOURCE}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def quantile(share: float, metric: str, *by: str, where: str = "") -> str:
    return (
        f"histogram_quantile({share}, sum by ({', '.join((*by, 'le'))}) "
        f"(rate(ray_cosygraph_{metric}_bucket{{{_all(where)}}}[$__rate_interval])))"
    )


def rate(metric: str, *by: str, where: str = "", of: str = "rate") -> str:
    return f"sum by ({', '.join(by)}) ({of}(ray_cosygraph_{metric}{{{_all(where)}}}[$__rate_interval]))"


def share(metric: str, good: str, all_of: str, *by: str) -> str:
    """Return the query of a share: `good` of `all_of`; 0 where none is good."""
    every = rate(metric, *by, where=all_of)
    return f"({rate(metric, *by, where=good)} or 0 * {every}) / {every}"


def _all(where: str) -> str:
    return f"{APPLICATION}, {where}" if where else APPLICATION


def queries() -> Iterator[tuple[Dashboard, Panel, str]]:
    """Every query of every panel."""
    from cluster.grafana.boards import BOARDS

    for board in BOARDS:
        for panel in board.panels:
            for query in panel.queries.values():
                yield board, panel, query
