"""Converts queues from messages to objects and back, with the validation of the API."""

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration  # noqa: F401 - in annotations

from ..errors import invalid
from ..state.model import Queue, QueueConfig, RateLimits
from ..state.retries import RetryPolicy
from .targets import read_override, read_routing, write_override, write_routing
from .wire import Message, QueueMessage, duration, seconds, timestamp

# Older versions of google-cloud-tasks do not have this field.
_QUEUE_TARGETS = "http_target" in QueueMessage.DESCRIPTOR.fields_by_name
_HIGHEST_RATE, _MOST_CONCURRENT = 500, 5000


def read_queue(message: Message, *, zero_doublings: bool = False) -> QueueConfig:
    """Return the configuration in a queue message.

    Args:
        message: the queue message.
        zero_doublings: whether a `max_doublings` of 0 means 0; otherwise it means the default.

    Raises:
        ApiError: INVALID_ARGUMENT.
    """
    limits, retries = message.rate_limits, message.retry_config
    rate = limits.max_dispatches_per_second
    if not math.isfinite(rate):
        raise invalid("RateLimits.maxDispatchesPerSecond must be a finite number.")
    if rate < 0:
        raise invalid("RateLimits.maxDispatchesPerSecond cannot be negative.")
    if rate > _HIGHEST_RATE:
        raise invalid("RateLimits.maxDispatchesPerSecond must be less than or equal to 500.")
    concurrent = limits.max_concurrent_dispatches
    if concurrent < 0:
        raise invalid("RateLimits.maxConcurrentDispatches cannot be negative.")
    if concurrent > _MOST_CONCURRENT:
        raise invalid("RateLimits.maxConcurrentDispatches must be less than or equal to 5000.")
    return QueueConfig(
        limits=RateLimits(
            rate=rate or RateLimits().rate, concurrent=concurrent or RateLimits().concurrent
        ),
        retries=read_retries(retries, zero_doublings=zero_doublings),
        override=(
            read_override(message.http_target)
            if _QUEUE_TARGETS and message.HasField("http_target")
            else None
        ),
        routing=(
            read_routing(message.app_engine_routing_override)
            if message.HasField("app_engine_routing_override")
            else None
        ),
        logged_share=(
            message.stackdriver_logging_config.sampling_ratio
            if message.HasField("stackdriver_logging_config")
            else None
        ),
    )


def read_retries(message: Message, *, zero_doublings: bool = False) -> RetryPolicy:
    """Return the policy in a `RetryConfig` message. See `read_queue` for `zero_doublings`."""
    default = RetryPolicy()
    if message.max_attempts < -1:
        raise invalid("RetryConfig.maxAttempts must be greater or equal to -1.")
    if message.max_doublings < 0:
        raise invalid("RetryConfig.maxDoublings cannot be negative.")
    backoffs = {}
    for name, label in (("min_backoff", "minBackoff"), ("max_backoff", "maxBackoff")):
        given = message.HasField(name)
        backoffs[name] = seconds(getattr(message, name)) if given else getattr(default, name)
        if backoffs[name] < 0:
            raise invalid(f"RetryConfig.{label} cannot be negative.")
    if backoffs["min_backoff"] > backoffs["max_backoff"]:
        raise invalid(
            "RetryConfig.minBackoff must be less than or equal to RetryConfig.maxBackoff."
        )
    if seconds(message.max_retry_duration) < 0:
        raise invalid("RetryConfig.maxRetryDuration cannot be negative.")
    return RetryPolicy(
        max_attempts=message.max_attempts or default.max_attempts,
        max_retry_duration=seconds(message.max_retry_duration),
        max_doublings=(
            message.max_doublings
            if message.max_doublings or zero_doublings
            else default.max_doublings
        ),
        **backoffs,
    )


def write_queue(queue: Queue) -> Message:
    """Return the message for a queue, as the API shows it."""
    config = queue.config
    limits = config.limits
    message = QueueMessage(
        name=queue.name,
        rate_limits={
            "max_dispatches_per_second": limits.rate,
            "max_burst_size": limits.burst,
            "max_concurrent_dispatches": limits.concurrent,
        },
        retry_config=write_retries(config.retries),
        state=queue.state.name,
    )
    if queue.purge_time is not None:
        message.purge_time.CopyFrom(timestamp(queue.purge_time))
    if config.logged_share is not None:
        message.stackdriver_logging_config.sampling_ratio = config.logged_share
    if config.override:
        write_override(config.override, message.http_target)
    if config.routing:
        project = queue.name.split("/")[1]
        write_routing(config.routing, project, message.app_engine_routing_override)
    return message


def write_retries(policy: RetryPolicy) -> dict[str, Any]:
    written = {
        "max_attempts": policy.max_attempts,
        "max_doublings": policy.max_doublings,
        "min_backoff": duration(policy.min_backoff),
        "max_backoff": duration(policy.max_backoff),
    }
    if policy.max_retry_duration:
        written["max_retry_duration"] = duration(policy.max_retry_duration)
    return written
