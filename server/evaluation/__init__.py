"""``captiond eval``: how good and how fast captions of recordings with a known answer are.

A client's view: it drives a server from outside, or a session alone, and is never part of a
server process. In the order of use:

- ``evaluate``: all of a manifest, one after the other.
- ``manifest``: which recordings. ``truth``: what is said in them, from STM, CTM and RTTM.
- ``heard``: what came of one. ``run``: through a server. ``offline``: through a session alone.
- ``score``: all metrics of one recording, as counts. ``speaker_words``: those of who said what.
- ``report``: counts into JSON and a table, totals. ``files``: hypotheses as files. ``plots``.
"""
