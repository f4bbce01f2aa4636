"""What a service counts, for Prometheus; in a registry of its own, so that two services in a process stay apart."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service.

    Args:
        waiting: Gives the number of images that are accepted and not yet answered.
        model: Labels of the model.
    """

    def __init__(self, waiting: Callable[[], float], model: dict[str, str]) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("uniemox_requests", "Requests answered", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "uniemox_request_seconds", "Time from head to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("uniemox_images", "Images answered or unreadable", ["outcome"], registry=registry)
        self.batches = Histogram("uniemox_batch_images", "Images in a batch", buckets=_IMAGES, registry=registry)
        Gauge("uniemox_images_waiting", "Images accepted and not yet answered", registry=registry).set_function(waiting)
        Gauge("uniemox_model_info", "The model", list(model), registry=registry).labels(**model).set(1)

    def render(self) -> bytes:
        """Write all of them in Prometheus's text format."""
        return generate_latest(self._registry)
