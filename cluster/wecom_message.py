"""The message that people get in WeCom about an alert, written once for both ways there.

Alertmanager renders a template of its own for WeCom's application; our adapter renders Alertmanager's webhook for group
robots. Both come from the lines below. `python -m cluster.wecom_message` writes the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).parent / "alertmanager" / "wecom.tmpl"
NAME = "cosygraph.wecom"  #: as alertmanager.yml names the template
MAX_ALERTS = 3  #: of the template: an application's message may have 2,048 bytes
MAX_SUMMARY = 400  #: characters, here and below of the adapter alone: Alertmanager's templates can't cut
MAX_NOTE = 80
MAX_LINK = 999

HEAD = "**{head}**"
FIRING = '<font color="warning">{name}</font>'
RESOLVED = '<font color="info">{name} is over</font>'
SUMMARY = "{summary}"
STAGE = "> stage: {stage}"
VALUE = "> value: {value}"
SINCE = "> since: {since} UTC"
LINK = "[its traces]({traces})"
MORE = "and {number} more"


def render(alert: Mapping) -> str:
    """Return one alert of Alertmanager's webhook (version 4) as WeCom's markdown, without lines that lack a value."""
    annotations = alert.get("annotations", {})
    name = alert.get("labels", {}).get("alertname", "alert")
    head = (FIRING if alert.get("status") == "firing" else RESOLVED).format(name=name)
    lines = [HEAD.format(head=head)]
    if summary := annotations.get("summary"):
        lines.append(SUMMARY.format(summary=_cut(summary, MAX_SUMMARY)))
    if stage := annotations.get("stage"):
        lines.append(STAGE.format(stage=_cut(stage, MAX_NOTE)))
    if value := annotations.get("value"):
        lines.append(VALUE.format(value=_cut(value, MAX_NOTE)))
    lines.append(SINCE.format(since=alert.get("startsAt", "")[:19].replace("T", " ")))
    if 0 < len(traces := annotations.get("traces", "")) <= MAX_LINK:
        lines.append(LINK.format(traces=traces))
    return "\n".join(lines)


def template() -> str:
    """Return the same message as a template of Alertmanager's."""
    name = "{{ .Labels.alertname }}"
    firing, resolved = FIRING.format(name=name), RESOLVED.format(name=name)
    head = '{{ if eq .Status "firing" }}' + firing + "{{ else }}" + resolved + "{{ end }}"
    since = '{{ .StartsAt.UTC.Format "2006-01-02 15:04:05" }}'
    lines = [
        "{{/* Made by `python -m cluster.wecom_message`: change cluster/wecom_message.py, and run it. */ -}}",
        f'{{{{ define "{NAME}" -}}}}',
        f"{{{{ range $index, $alert := .Alerts }}}}{{{{ if lt $index {MAX_ALERTS} -}}}}",
        HEAD.format(head=head),
        SUMMARY.format(summary="{{ .Annotations.summary }}"),
        STAGE.format(stage="{{ .Annotations.stage }}"),
        VALUE.format(value="{{ .Annotations.value }}"),
        SINCE.format(since=since),
        LINK.format(traces="{{ .Annotations.traces }}"),
        "{{ end }}{{ end -}}",
        f"{{{{ if gt (len .Alerts) {MAX_ALERTS} }}}}"
        + MORE.format(number=f"{{{{ len (slice .Alerts {MAX_ALERTS}) }}}}")
        + "{{ end }}",
        "{{- end }}",
    ]
    return "\n".join(lines) + "\n"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


if __name__ == "__main__":
    TEMPLATE.write_text(template())
    print(TEMPLATE)
