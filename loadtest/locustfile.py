"""What Locust runs for `servegate loadtest`: one user that sends a profile (see profiles/) as an open loop.

`servegate loadtest run loadtest/profiles/release.yaml --base-url URL` starts it. By hand:

    locust -f loadtest/locustfile.py --headless --host URL --model NAME \
        --traffic loadtest/profiles/release.yaml --records records.jsonl

Add a listener here (https://docs.locust.io, "Event hooks") to send Locust's events elsewhere.
"""

from __future__ import annotations

from servegate.loadtest.user import ChatUser

__all__ = ["ChatUser"]
