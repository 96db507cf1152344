"""What this project asks of Prefect, set before Prefect is first imported; the user's environment always wins.

Import `flow` from here instead of from Prefect: Prefect reads its environment when it is imported, so importing this
module sets the defaults (its one side effect). PREFECT_HOME stays the user's: runs show up in their dashboard.
"""

from __future__ import annotations

import logging
import os

from reward_data.errors import REFUSALS, Rl4SegError

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the dashboard still gets every INFO line
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from prefect import flow  # noqa: E402  (after the environment is set)

__all__ = ["flow", "quiet_user_errors"]


def quiet_user_errors() -> None:
    """Keep what is the user's to mend to one message: no traceback in the dashboard, nothing before the caller's own.

    Calling it again changes nothing.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if _without_traceback not in logger.filters:
            logger.addFilter(_without_traceback)
    for handler in logging.getLogger().handlers:
        if type(handler).__module__.startswith("prefect.") and _not_said_elsewhere not in handler.filters:
            handler.addFilter(_not_said_elsewhere)


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Rl4SegError) or (isinstance(error, OSError) and error.errno in REFUSALS):
        record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        record.user_error = True
    return True


def _not_said_elsewhere(record: logging.LogRecord) -> bool:
    """Whether the console shows a record: not what the flow raises to its caller, nor what follows from it."""
    message = str(record.msg)
    repeats = record.name in ("prefect.flow_runs", "prefect.task_runs") and message.startswith("Finished in")
    settling = message.startswith("Still processing items")  # log lines on their way to the server
    return not repeats and not settling and not getattr(record, "user_error", False)
