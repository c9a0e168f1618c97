"""Prometheus text exposition format 0.0.4, and the counts of HTTP requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from aiohttp import web

from lddp.admin.backend import Metric
from lddp.admin.problems import Handler


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def render(series: Iterable[Metric]) -> str:
    """All series, those of one name together, as the format demands."""
    by_name: dict[str, list[Metric]] = {}
    for metric in series:
        by_name.setdefault(metric.name, []).append(metric)
    lines = []
    for name, group in by_name.items():
        lines.append(f"# HELP {name} " + group[0].help.replace("\\", r"\\").replace("\n", r"\n"))
        lines.append(f"# TYPE {name} {group[0].kind}")
        for metric in group:
            labels = ",".join(f'{key}="{_escape(value)}"' for key, value in metric.labels)
            number = int(metric.value) if float(metric.value).is_integer() else metric.value
            lines.append(f"{name}{{{labels}}} {number}" if labels else f"{name} {number}")
    return "\n".join(lines) + "\n"


class Meter:
    """Counts requests by route, method and status."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str]] = Counter()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        try:
            response = await handler(request)
        except BaseException:
            self._requests[route, request.method, "broken"] += 1
            raise
        self._requests[route, request.method, str(response.status)] += 1
        return response

    def metrics(self) -> Iterator[Metric]:
        help = "HTTP requests answered."
        for (route, method, status), count in sorted(self._requests.items()):
            labels = (("method", method), ("route", route), ("status", status))
            yield Metric("lddp_http_requests_total", "counter", help, count, labels)


METER = web.AppKey("meter", Meter)
