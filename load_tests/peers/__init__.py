"""captiond beside other live caption servers: ``python -m load_tests.peers``, ``make bench-peers``.

Same weights, same speech, same clock: streams that speak in real time over real sockets, one
system after the other. Whatever a server sends is reduced to one thing, what a reader would see
and when (``screens``), so that all are judged by the same rule (``held``).

In the order of use: ``environments`` (installs), ``system`` (what is compared) with an adapter
file each (``captiond``, ``whisper_live``, ``whisperlivekit``), ``talking`` (a stream),
``disturbance`` (what else the machine did), ``probing`` (N streams), ``held`` (the largest N that
holds), ``screens`` (how late each word was), ``report``.
"""
