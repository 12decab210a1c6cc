"""A real Prometheus in the cluster, fed by manifests/monitoring as the Prometheus operator would feed it."""

from monitoring.server import Prometheus, prometheus_on

__all__ = ["Prometheus", "prometheus_on"]
