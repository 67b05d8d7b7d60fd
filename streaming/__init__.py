"""The pure core of captiond: bytes and results in, jobs and events out, time as an argument.

Nothing here waits, reads a clock, opens a file or loads a model. The modules, in the order in
which data flows; each imports only from those above it (``tests/test_contracts.py``):

Shared terms
- ``timeline``: the audio clock, spans of samples.
- ``errors``: what may go wrong, by whose fault it is.
- ``engines``: what is asked of a model, and its answers; three protocols.
- ``events``: what a session says.
- ``wire``: the native protocol's messages and their JSON.
- ``stats``: what a session has counted.

Audio becomes utterances and windows
- ``audio``: client bytes → samples at 16 kHz.
- ``buffer``: a lane's samples by absolute index.
- ``endpointing``: speech probability → where utterances start and end.
- ``windows``: which span to decode next.
- ``agreement``: which words of a partial can be trusted, where to cut.

Voices become speakers
- ``turns``: frame activity of labelled chunks → speaker turns.
- ``clustering``: embeddings → global speakers with stable numbers.
- ``speakers``: one lane's evidence, questions and turns.
- ``attribution``: words × turns → the speaker of each word.
- ``captions``: captions, and what was sent of them, so that it can be revised.

One lane, one session
- ``scripted_audio``: audio that spells out its own words, for tests and load tests.
- ``listening``: one lane's ear; accounts for every sample.
- ``recognition``: one lane's windows and committed words.
- ``speech_times``: word times trimmed to where somebody speaks.
- ``eventlog``: a session's events, one read cursor per subscriber.
- ``delays``: how late each word was written.
- ``jobs``: what a session asks, as data for a scheduler.
- ``publishing``: one lane's text as events.
- ``lane``: the above wired together for one lane.
- ``session``: one stream, from its first byte to its last event.

Many sessions, and afterwards
- ``batching``: which jobs go to an engine together.
- ``exports``: events → JSON, TXT, SRT, VTT, RTTM, STM, CTM, SegLST.
"""
