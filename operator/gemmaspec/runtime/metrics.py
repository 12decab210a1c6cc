"""The operator's own metrics, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

PASSES = Counter("gemmaspec_reconcile_total", "Passes over resources, by how they ended.", ["result"])
PASS_SECONDS = Histogram(
    "gemmaspec_reconcile_duration_seconds",
    "Time of one pass over one resource.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15),
)
QUEUE = Gauge("gemmaspec_queue_depth", "Resources that wait for a pass.")
WRITES = Counter("gemmaspec_api_writes_total", "Writes to the Kubernetes API, by kind of object.", ["kind"])
API_ERRORS = Counter("gemmaspec_api_errors_total", "Requests that the Kubernetes API did not serve.", ["status"])
SCRAPE_ERRORS = Counter("gemmaspec_scrape_errors_total", "Scrapes of engines that failed.")
DECISIONS = Counter("gemmaspec_decisions_total", "Changes of K, by reason.", ["reason"])

_LABELS = ["namespace", "name"]
K_DESIRED = Gauge("gemmaspec_k_desired", "Desired draft tokens a step.", _LABELS)
K_EFFECTIVE = Gauge("gemmaspec_k_effective", "Draft tokens a step that the engines run with.", _LABELS)
TOKENS_PER_STEP = Gauge("gemmaspec_tokens_per_step", "Tokens a sequence gains a step, bonus token included.", _LABELS)
TOKENS_PER_SECOND = Gauge("gemmaspec_generated_tokens_per_second", "Generated tokens per second.", _LABELS)
ACCEPTANCE = Gauge(
    "gemmaspec_conditional_acceptance_ratio",
    "P(position accepted | the one before accepted) over the window.",
    [*_LABELS, "position"],
)
_PER_RESOURCE = (K_DESIRED, K_EFFECTIVE, TOKENS_PER_STEP, TOKENS_PER_SECOND)
_positions: dict[tuple[str, str], int] = {}


def serve(port: int) -> None:
    """Serve /metrics on ``port``; 0 for none."""
    if port:
        start_http_server(port)


def acceptance(namespace: str, name: str, rates: tuple[float, ...]) -> None:
    """Publish conditional acceptance; positions that are not drafted any more lose their series."""
    for position, rate in enumerate(rates):
        ACCEPTANCE.labels(namespace, name, str(position)).set(rate)
    for position in range(len(rates), _positions.get((namespace, name), 0)):
        ACCEPTANCE.remove(namespace, name, str(position))
    _positions[namespace, name] = len(rates)


def forget(namespace: str, name: str) -> None:
    """Remove the series of a resource that is gone."""
    acceptance(namespace, name, ())
    _positions.pop((namespace, name), None)
    for gauge in _PER_RESOURCE:
        gauge.remove(namespace, name)
