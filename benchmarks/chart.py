"""Line and bar charts as SVG, readable on a light and on a dark page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 780, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 56, 52
LINE_HEIGHT = 16

# Mid tones with enough contrast on white and on black; a subject has the same in every chart.
COLOURS = {
    "redis_state": "#e0452c",
    "redis.asyncio": "#3b7dd8",
    "SET then SADD": "#4c93a8",
    "aiogram RedisStorage": "#9361c9",
    "py-key-value RedisStore": "#c24f8f",
    "openai-agents RedisSession": "#b07d0a",
    "valkey-glide": "#2f9e6e",
    "coredis": "#7c8a3a",
    "bare protocol": "#8a8f98",
}
STACK = ("#3b7dd8", "#2f9e6e")
STYLE = """
text { font: 12px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #57606a }
.title { font-size: 15px; font-weight: 600; fill: #1f2328 }
.grid { stroke: #d0d7de; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #9aa4af } .title { fill: #e6edf3 } .grid { stroke: #30363d }
}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its name, its points in the order of x, and whether it is dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False

    @property
    def colour(self) -> str:
        """That of the subject, which is the name up to a comma."""
        return COLOURS[self.name.partition(",")[0]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of stacked parts, in the order of the chart's legend."""

    name: str
    parts: Sequence[float]


def line_chart(title: str, series: Sequence[Series], *, x: str, y: str, log_y: bool = False) -> str:
    """Lines over a logarithmic x axis whose marks are the measured values; names stand at the lines' ends."""
    xs = sorted({point[0] for line in series for point in line.points})
    ys = [point[1] for line in series for point in line.points]
    marks = logarithmic_marks(min(ys), max(ys)) if log_y else linear_marks(max(ys))
    to_x = scale(xs[0], xs[-1], LEFT, WIDTH - RIGHT, logarithmic=True)
    to_y = scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, logarithmic=log_y)
    body = axes(title, y, [(to_y(mark), short(mark)) for mark in marks])
    body += [
        f'<text x="{to_x(mark):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(mark)}</text>'
        for mark in (xs if len(xs) < 8 else logarithmic_marks(xs[0], xs[-1]))
        if xs[0] <= mark <= xs[-1]
    ]
    body.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x)}</text>')
    ends = spread([to_y(line.points[-1][1]) for line in series])
    for line, end in reversed(list(zip(series, ends, strict=True))):  # the first is drawn last, over the others
        stroke = f'stroke="{line.colour}" stroke-width="{3 if line is series[0] else 1.8}"'
        if line.dashed:
            stroke += ' stroke-dasharray="6 4"'
        points = [(to_x(px), to_y(py)) for px, py in line.points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        body.append(f'<polyline points="{path}" fill="none" {stroke}/>')
        body += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{line.colour}"/>' for px, py in points]
        last_x, last_y = points[-1]
        label_x = WIDTH - RIGHT + 20
        body.append(
            f'<path d="M{last_x + 4:.1f},{last_y:.1f}L{label_x - 4},{end:.1f}" stroke="{line.colour}" opacity=".5"/>'
            f'<text x="{label_x}" y="{end + 4:.1f}" style="fill:{line.colour}">{escape(line.name)}</text>'
        )
    return document(body, HEIGHT)


def bar_chart(title: str, bars: Sequence[Bar], parts: Sequence[str], *, unit: str) -> str:
    """Horizontal bars of stacked parts, with the sum at the end."""
    row, left, top = 30, 200, 80
    height = top + row * len(bars) + 16
    to_x = scale(0, max(sum(bar.parts) for bar in bars), left, WIDTH - 90)
    body = [f'<text class="title" x="16" y="26">{escape(title)}</text>']
    legend_x = left
    for part, colour in zip(parts, STACK, strict=True):
        body.append(f'<rect x="{legend_x}" y="46" width="12" height="12" rx="2" fill="{colour}"/>')
        body.append(f'<text x="{legend_x + 18}" y="56">{escape(part)}</text>')
        legend_x += 40 + 7 * len(part)
    for i, bar in enumerate(bars):
        y, start = top + row * i, 0.0
        body.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(bar.name)}</text>')
        for part, colour in zip(bar.parts, STACK, strict=True):
            width = to_x(start + part) - to_x(start)
            body.append(f'<rect x="{to_x(start):.1f}" y="{y}" width="{width:.1f}" height="20" rx="2" fill="{colour}"/>')
            start += part
        body.append(f'<text x="{to_x(start) + 6:.1f}" y="{y + 15}">{start:,.0f} {escape(unit)}</text>')
    return document(body, height)


def axes(title: str, y: str, marks: Sequence[tuple[float, str]]) -> list[str]:
    """The title, the y axis and its grid."""
    body = [
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        f'<text x="16" y="44">{escape(y)}</text>',
    ]
    for position, label in marks:
        body.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{position:.1f}" y2="{position:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{position + 4:.1f}" text-anchor="end">{label}</text>'
        )
    return body


def document(body: Sequence[str], height: int) -> str:
    """The whole file."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return "\n".join((head, f"<style>{STYLE}</style>", *body, "</svg>", ""))


def scale(low: float, high: float, start: float, end: float, *, logarithmic: bool = False) -> Callable[[float], float]:
    """A function from a value to its place between `start` and `end`."""
    if logarithmic:
        inner = scale(math.log(low), math.log(high), start, end)
        return lambda value: inner(math.log(value))
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def linear_marks(high: float) -> list[float]:
    """Zero to `high` or a little more, in about five round steps."""
    magnitude = 10 ** math.floor(math.log10(high / 5))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude * 5.5 >= high)
    return [step * i for i in range(math.ceil(high / step) + 1)]


def logarithmic_marks(low: float, high: float) -> list[float]:
    """From a round number below to one above: 1, 2, 5, 10 ..., or powers of ten where these would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    start = max(i for i, step in enumerate(steps) if step <= low)
    end = min(i for i, step in enumerate(steps) if step >= high)
    marks = steps[start : end + 1]
    if len(marks) <= 8:
        return marks
    between = [mark for mark in marks[1:-1] if math.log10(mark).is_integer()]
    return [marks[0], *between, marks[-1]]


def spread(places: Sequence[float]) -> list[float]:
    """Places for labels near the wanted ones, a line's height apart, inside the chart."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [0.0] * len(places)
    last = TOP - LINE_HEIGHT
    for i in order:
        last = found[i] = max(places[i], last + LINE_HEIGHT)
    limit = float(HEIGHT - BOTTOM)
    for i in reversed(order):
        found[i] = min(found[i], limit)
        limit = found[i] - LINE_HEIGHT
    return found


def short(value: float) -> str:
    """A number for an axis: 2.5k, 100k, 3M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"
