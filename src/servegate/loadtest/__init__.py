"""Load: schedule → requests → records → report.

    profile = load_profile(Path("loadtest/profiles/release.yaml"))
    report = run(profile, endpoint, output)             # a measured run
    with traffic(profile, endpoint, output) as users:   # until stopped
        users.counts()

`client`, `sender` and `user` belong to the load process: they import gevent. Nothing else here does.
"""

from __future__ import annotations

from servegate.loadtest.background import Counts, Traffic, traffic
from servegate.loadtest.profile import LoadedProfile, Profile, load_profile
from servegate.loadtest.runner import run
from servegate.loadtest.sidecar import RecordTail

__all__ = ["Counts", "LoadedProfile", "Profile", "RecordTail", "Traffic", "load_profile", "run", "traffic"]
