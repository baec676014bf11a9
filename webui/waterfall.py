"""Draws a request's time: a bar for each stage of each piece, split into queue, waiting for the device and compute.

HTML and CSS of our own (`page.css`), everything from outside escaped; the same figures as a table below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from webui.client import Done, Timing

PARTS = ("queue", "batch", "compute", "other")


def parts(timing: Timing) -> dict[str, float]:
    """Return milliseconds by part; they add up to the duration, whatever the service's clocks say."""
    left = max(timing.duration_ms, 0.0)
    found = {}
    for name, ms in (("queue", timing.queue_ms), ("batch", timing.batch_wait_ms), ("compute", timing.compute_ms)):
        found[name] = min(max(ms, 0.0), left)
        left -= found[name]
    return found | {"other": left}


def draw(done: Done, words: Mapping[str, str]) -> str:
    """Draw one finished request as HTML; return an empty string where it names no stage."""
    if not done.stages:
        return ""
    end = max([done.total_ms, done.first_audio_ms or 0, *(one.start_ms + one.duration_ms for one in done.stages)])
    many = any(one.piece > 1 for one in done.stages)
    rows = "".join(_row(one, end, many, words) for one in _ordered(done))
    legend = "".join(f'<span><i class="part {name}"></i>{escape(words[name])}</span>' for name in PARTS)
    ticks = "".join(f'<span style="left:{25 * step}%">{_ms(end * step / 4)}</span>' for step in range(5))
    first = _first_audio(done, end, words)
    # A picture for those who see it; for a screen reader the table says the same.
    return (
        f'<figure class="waterfall"><figcaption>{escape(words["waterfall"])}</figcaption>'
        f'<div class="legend" aria-hidden="true">{legend}{first[1]}</div>'
        f'<div class="rows" aria-hidden="true" tabindex="-1">{rows}'
        f'<div class="row axis"><span></span><div class="track">{ticks}{first[0]}</div>'
        f'<span class="unit">{escape(words["ms"])}</span></div></div>{_table(done, words)}</figure>'
    )


def _ordered(done: Done) -> list[Timing]:
    return sorted(done.stages, key=lambda one: (one.start_ms, one.piece))


def _name(timing: Timing, words: Mapping[str, str]) -> str:
    return words.get(f"stage_{timing.stage}", timing.stage)


def _row(timing: Timing, end: float, many: bool, words: Mapping[str, str]) -> str:
    start = max(timing.start_ms, 0.0)
    found = parts(timing)
    bars = "".join(
        f'<b class="part {name}" style="width:{_share(found[name], timing.duration_ms)}"></b>'
        for name in PARTS
        if found[name] > 0
    )
    spoken = ", ".join(f"{words[name]} {_ms(found[name])}" for name in PARTS)
    piece = f" <small>{escape(words['piece'].format(piece=timing.piece))}</small>" if many else ""
    return (
        f'<div class="row" title="{escape(f"{timing.stage}, {timing.service}: {spoken}")}">'
        f'<span class="name">{escape(_name(timing, words))}{piece}<small>{escape(timing.service)}</small></span>'
        f'<div class="track"><div class="bar" style="left:{_share(start, end)};'
        f'width:{_share(timing.duration_ms, end)}">{bars}</div></div>'
        f'<span class="took">{_ms(timing.duration_ms)}</span></div>'
    )


def _first_audio(done: Done, end: float, words: Mapping[str, str]) -> tuple[str, str]:
    """Draw the mark on the axis, and its entry in the legend."""
    if done.first_audio_ms is None:
        return "", ""
    return (
        f'<em class="first" style="left:{_share(done.first_audio_ms, end)}"></em>',
        f'<span><em class="first"></em>{escape(words["first_audio"])} {_ms(done.first_audio_ms)}</span>',
    )


def _table(done: Done, words: Mapping[str, str]) -> str:
    columns = ("col_stage", "col_start", "queue", "batch", "compute", "other", "col_duration", "col_size")
    head = "".join(f'<th scope="col">{escape(words[name])}</th>' for name in columns)
    rows = []
    for one in _ordered(done):
        found = parts(one)
        name = f"{_name(one, words)} ({one.service}, {words['piece'].format(piece=one.piece)})"
        figures = (one.start_ms, *(found[part] for part in PARTS), one.duration_ms)
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f"<td>{_ms(ms)}</td>" for ms in figures)
            + f"<td>{one.batch_size}</td></tr>"
        )
    return (
        f"<details><summary>{escape(words['figures'])} ({escape(words['ms'])})</summary><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></details>"
    )


def _share(ms: float, of: float) -> str:
    return f"{100 * ms / of if of > 0 else 0:.3f}%"


def _ms(ms: float) -> str:
    return f"{ms:,.1f}" if ms < 10 else f"{ms:,.0f}"
