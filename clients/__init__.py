"""What talks to a captiond server: an async library, a terminal client, a web page.

Of ``streaming`` only the protocol is known here, of ``server`` nothing. In the order of use:

- ``stream``: the async client, ``CaptionStream``. ``errors``: what it raises.
- ``dial``: opens one connection. ``reconnect``: whether and when a lost one is tried again.
- ``backlog``: audio that the server has not stored yet.
- ``audio_source``: a file, the microphone, standard input. ``pacing``: when a packet may be sent.
- ``live``: events folded into what a viewer should see now. ``latency``: how late it came.
- ``delays``: how late each word of a recording came, the definition that all tools share.
- ``output``: plain text and files. ``terminal``: the live view.
- ``stream_command``: ``captiond stream``. ``tuning_options``: what it asks for its session alone.
- ``web``: the caption page. ``examples``: programs to start from.
"""
