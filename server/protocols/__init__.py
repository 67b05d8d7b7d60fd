"""What is spoken on the port besides plain HTTP: a few files per protocol, over the same sessions.

- ``captiond``: our own. ``foreign``: adds all the others.
- ``deepgram``: Deepgram's routes and refusals. ``deepgram_query``: what a client asks for.
  ``deepgram_connection``, ``deepgram_socket``: a live stream. ``deepgram_intake``,
  ``deepgram_audio``: its audio, in its order. ``deepgram_results``: events to messages, in order.
  ``deepgram_messages``: their JSON. ``deepgram_recording``: whole recordings.
- ``openai_rest`` and what begins with ``openai``: OpenAI's transcriptions.

Invariant: no adapter reaches into ``streaming``'s decisions; each reads the session's event log.
"""
