"""Everything that waits: sockets, processes, the store, signals. Decides no word and no speaker.

The modules, from the outside in:

- ``__main__``, ``commands``: the ``captiond`` command. ``child``: runs one as a child process.
- ``config``, ``setting_types``, ``presets``, ``settings_sources``: settings, and whence they come.
- ``app``: wires everything, drains. ``engine_specs``: settings → what the workers load.
- ``processes``: how many of them there are, with how many threads.
- ``listener``: the open port. ``tls``: its certificate. ``systemd``: sockets handed over.
- ``doorway``: connections that have not asked for anything yet.
- ``auth``, ``limits``, ``admission``: who may connect, how fast, and whether there is room.
- ``load``: what the engines have to do, and how late they are. ``overload``: what is done about it.
- ``guard``: what every request must pass. ``tickets``: what browsers show instead of a key, and an
  audience's links. ``routes``: HTTP. ``sharing``: its part for pages. ``pages``: the pages' files.
- ``subscription``: a session's events, read live by another. ``names``: what people call speakers.
- ``socket``, ``connection``: one WebSocket, whatever is spoken on it. ``protocols``: what is: our
  own, and the wire formats of others.
- ``recordings``: whole files through ordinary sessions. ``containers``, ``container_child``: their
  decoding, in a process that can do nothing else.
- ``hub``: the sessions in memory. ``live``: one of them, carried through waiting. ``resuming``: who
  comes back to one, here or from another server. ``deadlines``: when a pause is a talker's own.
- ``store``, ``group_commit``, ``store_writes``, ``schema``, ``postgres``: sessions and durable
  events on disk.
- ``retention``: what the store keeps and for how long. ``spool``: captions shown before they are
  stored.
- ``dispatch``: jobs to workers, answers back. ``workers``: supervised engine processes.
- ``cpu_budget``: how many processors there really are. ``memory``: how much there is and is used,
  and giving it back when freed.
- ``worker_frames``, ``worker_main``: what crosses to a worker process, and its entry point.
- ``engines``: one file per model family; the only place that imports model libraries, and only
  inside worker processes.
- ``telemetry``: what operators see: ``logs`` and ``metrics`` by one name.
- ``logs``: the only logging configuration. ``metrics``: every metric, by subject.
- ``accounts``: what sessions have counted, and for whom. ``capacity``: how many would fit.
- ``tracing``: what happened to each utterance. ``traces``, ``traced``, ``tracing_export``: who is
  watched for it, and the spans that are made of it.
- ``vitals``: loop, workers and store, looked at now and then. ``scoring``: word and
  speaker errors against a reference.
- ``doctor``: ``captiond doctor``, which looks at the machine.
- ``evaluation``: ``captiond eval``, a client with metrics; no server process imports it.
- ``assets``: the demo clip and the demo checkpoint.
"""
