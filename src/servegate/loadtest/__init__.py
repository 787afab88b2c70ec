"""Load: schedule → requests → records → report.

    loaded = LoadedProfile.read(Path("loadtest/profiles/release.yaml"))
    report = run(loaded, endpoint, output)             # a measured run
    with traffic(loaded, endpoint, output) as users:   # until stopped
        users.counts()

`client`, `sender` and `user` run in the load process only: they import gevent.
"""
