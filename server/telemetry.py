"""What operators see, by one name: logging from ``logs``, metrics from ``metrics``."""

from server.logs import SECRET_FIELDS, LogFormat, configure_logging, drop_secrets
from server.metrics import Metrics
from server.metrics.engines import BATCH_BUCKETS, CONTEXT_BUCKETS_S
from server.metrics.making import LATENCY_BUCKETS_S, METRIC_PREFIX, SHORT_BUCKETS_S

__all__ = [
    "BATCH_BUCKETS",
    "CONTEXT_BUCKETS_S",
    "LATENCY_BUCKETS_S",
    "METRIC_PREFIX",
    "SECRET_FIELDS",
    "SHORT_BUCKETS_S",
    "LogFormat",
    "Metrics",
    "configure_logging",
    "drop_secrets",
]
