"""Draws a request's time: a bar for each stage, split into queue, waiting for the device and compute.

The stages that a text's pieces repeat share a row for each piece, one above the other: so seven pieces are seven rows.
HTML and CSS of our own (`page.css`), everything from outside escaped; the same figures as a table below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from webui.client import Done, Timing
from webui.figures import covered, duration

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
    repeated = _repeated(done)
    rows = "".join(_row(lanes, end, repeated, words) for lanes in _rows(done, repeated))
    legend = "".join(f'<span><i class="part {name}"></i>{escape(words[name])}</span>' for name in PARTS)
    if done.first_audio_ms is not None:
        first = f"{words['first_audio']} {duration(done.first_audio_ms, words)}"
        legend += f'<span><em class="first"></em>{escape(first)}</span>'
    lanes = ""
    if repeated:
        names = ", ".join(words.get(f"stage_{stage}", stage) for stage in repeated)
        lanes = f'<p class="lanes">{escape(words["lanes"].format(stages=names))}</p>'
    mark = "" if done.first_audio_ms is None else f' style="--first:{_share(done.first_audio_ms, end)}"'
    # A picture for those who see it; for a screen reader the table says the same.
    return (
        f'<figure class="waterfall"><figcaption>{escape(words["waterfall"])}</figcaption>'
        f'<div class="legend" aria-hidden="true">{legend}</div>{lanes}'
        f'<div class="rows{"" if done.first_audio_ms is None else " marked"}" aria-hidden="true" tabindex="-1"{mark}>'
        f"{_axis(end, words)}{rows}</div>{_table(done, words)}</figure>"
    )


def _repeated(done: Done) -> list[str]:
    """Return the stages that several pieces went through, in the order of their first start."""
    times = Counter(one.stage for one in done.stages)
    return list(dict.fromkeys(one.stage for one in _ordered(done) if times[one.stage] > 1))


def _rows(done: Done, repeated: Sequence[str]) -> list[list[Timing]]:
    """Return the bars of each row: one stage, or the repeated stages of one piece."""
    rows: list[list[Timing]] = []
    of_piece: dict[int, list[Timing]] = {}
    for one in _ordered(done):
        if one.stage not in repeated:
            rows.append([one])
        elif one.piece in of_piece:
            of_piece[one.piece].append(one)
        else:
            rows.append(of_piece.setdefault(one.piece, [one]))
    return rows


def _ordered(done: Done) -> list[Timing]:
    return sorted(done.stages, key=lambda one: (one.start_ms, one.piece))


def _name(timing: Timing, words: Mapping[str, str]) -> str:
    return words.get(f"stage_{timing.stage}", timing.stage)


def _row(lanes: list[Timing], end: float, repeated: Sequence[str], words: Mapping[str, str]) -> str:
    by_piece = lanes[0].stage in repeated
    if by_piece:
        name = escape(words["piece_row"].format(piece=lanes[0].piece))
    else:
        name = f"{escape(_name(lanes[0], words))}<small>{escape(lanes[0].service)}</small>"
    height = 100 / len(repeated) if by_piece else 100
    bars = "".join(_bar(one, end, repeated.index(one.stage) * height if by_piece else 0, height) for one in lanes)
    spoken = "\n".join(_spoken(one, words) for one in lanes)
    took = duration(covered((one.start_ms, one.start_ms + one.duration_ms) for one in lanes), words)
    return (
        f'<div class="row" title="{escape(spoken)}"><span class="name">{name}</span>'
        f'<div class="track">{bars}</div><span class="took">{escape(took)}</span></div>'
    )


def _spoken(timing: Timing, words: Mapping[str, str]) -> str:
    found = ", ".join(f"{words[part]} {duration(ms, words)}" for part, ms in parts(timing).items())
    return f"{timing.stage}, {timing.service}: {found}"


def _bar(timing: Timing, end: float, top: float, height: float) -> str:
    inner = "".join(
        f'<b class="part {name}" style="width:{_share(ms, timing.duration_ms)}"></b>'
        for name, ms in parts(timing).items()
        if ms > 0
    )
    return (
        f'<div class="bar" style="left:{_share(max(timing.start_ms, 0.0), end)};'
        f"width:{_share(timing.duration_ms, end)};"
        f'top:calc({top:.1f}% + 2px);height:calc({height:.1f}% - 4px)">{inner}</div>'
    )


def _axis(end: float, words: Mapping[str, str]) -> str:
    in_seconds = end >= 1000
    decimals = 0 if end >= 20_000 else 1 if end >= 2_000 else 2
    unit_ms, decimals = (1000, decimals) if in_seconds else (1, 0)
    ticks = "".join(
        f'<span style="left:{25 * step}%">{end * step / 4 / unit_ms:,.{decimals}f}</span>' for step in range(5)
    )
    unit = words["s" if in_seconds else "ms"]
    return (
        f'<div class="row axis"><span class="name"></span><div class="track">{ticks}</div>'
        f'<span class="took unit">{escape(unit)}</span></div>'
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
        f"<details><summary>{escape(words['figures'])} ({escape(words['ms'])})</summary><div><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _share(ms: float, of: float) -> str:
    return f"{100 * ms / of if of > 0 else 0:.3f}%"


def _ms(ms: float) -> str:
    return f"{ms:,.1f}" if ms < 10 else f"{ms:,.0f}"
