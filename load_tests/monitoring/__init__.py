"""Whether what operators watch is true: rules, alerts and dashboard against a real Prometheus.

- ``__main__``: ``make monitoring-test``: the load, the faults, the verdicts.
- ``prometheus``: a Prometheus of Debian's package as a child process, and its HTTP API.
- ``rules``: the deployed rules, and a copy of them in which time passes faster.
- ``dashboard``: the queries of the deployed dashboard, and the conventions that it keeps.
- ``agreement``: figures of Prometheus beside those of the load generator. Pure.
- ``breaking``: faults that must fire their alerts, and end them when they end.
- ``picture``: the dashboard's queries as one picture.
- ``cost``: what the metrics cost a server with 300 streams.
"""
