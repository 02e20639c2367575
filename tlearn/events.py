"""With TLEARN_LOG=json one line of JSON on stderr for every event, for what reads the logs of unattended jobs.

Each has the time (UTC), the job (a new id for every command) and the event; the other fields are the event's own.
"""

import json
import os
import secrets
import sys
from datetime import UTC, datetime

_JOB = secrets.token_hex(8)


def event(name: str, **figures: str | int | float | None) -> None:
    if os.environ.get("TLEARN_LOG") == "json":
        line = {"time": datetime.now(UTC).isoformat(), "job": _JOB, "event": name, **figures}
        print(json.dumps(line), file=sys.stderr, flush=True)
