"""The page: picture, steps, figures and raw data in one HTML file that needs nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from demo.figure import subtitle, title
from demo.record import Record

_PAGE: Final = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>$title</title>
<style>
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.1rem;margin-top:2rem}
svg{width:100%;height:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.done{color:#1a7f37}.failed{color:#b2182b;font-weight:bold}small,.dim{color:#666}
pre{background:#f6f6f6;padding:.8rem;overflow:auto;font-size:.85rem}
</style></head><body>
<h1>$title</h1><p class="dim">$subtitle<br>Run of $when.</p>
$picture
<h2>What was measured</h2>$phases
<h2>Steps</h2>$steps
<h2>What happened when</h2>$marks
<h2>The resource at the end</h2><pre>$resource</pre>
<script type="application/json" id="record">$record</script>
</body></html>
""")


def write(record: Record, folder: Path) -> None:
    """Write demo.html; takes the picture from demo.svg beside it."""
    (folder / "demo.html").write_text(html(record, (folder / "demo.svg").read_text()))


def html(record: Record, picture: str) -> str:
    """The page with an SVG picture."""
    return _PAGE.substitute(
        title=escape(title(record)),
        subtitle=escape(subtitle(record)),
        when=datetime.fromtimestamp(record.begun, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        picture=picture[picture.index("<svg") :],
        phases=_phases(record),
        steps=_steps(record),
        marks=_marks(record),
        resource=escape(json.dumps(record.resource.get("status", {}), indent=1, ensure_ascii=False)),
        record=json.dumps(record.body()).replace("</", "<\\/"),
    )


def _row(cells: list[str], head: bool = False, numbers: int = 0) -> str:
    tag = "th" if head else "td"
    at = len(cells) - numbers
    return (
        "<tr>"
        + "".join(f"<{tag}{' class=n' if i >= at else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        + "</tr>"
    )


def _phases(record: Record) -> str:
    rows = [_row(["phase", "text", "accepted up to position 0, 1, …", "K", "drafts", "seconds", "tokens/s"], True, 4)]
    for phase in record.phases:
        rates = " · ".join(f"{100 * rate:.0f} %" for rate in phase.accepted) or "no drafts"
        numbers = [str(phase.k), str(phase.drafts), f"{phase.seconds:.0f}", f"<b>{phase.tokens_per_second:.0f}</b>"]
        rows.append(_row([escape(phase.name), phase.text, rates, *numbers], numbers=4))
    return f"<table>{''.join(rows)}</table>"


def _steps(record: Record) -> str:
    rows = []
    for step in record.steps:
        mark = {"done": "✓", "failed": "✗"}.get(step["state"], "·")
        detail = f"<br><small>{escape(step['detail'])}</small>" if step["detail"] else ""
        title = f"<span class={step['state']}>{mark}</span> {escape(step['title'])}{detail}"
        rows.append(_row([title, f"{step['seconds']:.1f} s"], numbers=1))
    return f"<table>{''.join(rows)}</table>"


def _marks(record: Record) -> str:
    rows = [_row([escape(mark.text), f"{mark.time - record.begun:.1f} s"], numbers=1) for mark in record.marks]
    return f"<table>{''.join(rows)}</table>"
