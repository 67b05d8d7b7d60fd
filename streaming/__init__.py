"""The pure core of captiond: bytes and results in, jobs and events out, time as an argument.

Nothing here waits, reads a clock, opens a file or loads a model. The modules, in the order in
which data flows; each imports only from those above it (``tests/test_contracts.py``):

Shared terms
- ``timeline``: the audio clock, spans of samples.
- ``errors``: what may go wrong, by whose fault it is.
- ``engines``: what is asked of a model, and its answers; three protocols.
- ``events``: what a session says.
- ``tuning_ranges``: how far a client may turn its session's options.
- ``session_options``: what a client may ask of its session.
- ``wire``: the native protocol's messages and their JSON.
- ``stats``: what a session has counted.

Audio becomes utterances and windows
- ``audio``: client bytes → samples at 16 kHz.
- ``intake``: client packets → each lane's samples and clock.
- ``buffer``: a lane's samples by absolute index.
- ``endpointing``: speech probability → where utterances start and end.
- ``windows``: which span to decode next.
- ``agreement``: which words of a partial can be trusted, where to cut.
- ``guards``: which answers of a recognizer are not to be believed.
- ``partials``: what is shown of uncommitted words, and whether it is heard well enough.
- ``tuning``: what a client may change of all these for its own session.

Voices become speakers
- ``turns``: frame activity of labelled chunks → speaker turns.
- ``placing``: likeness to known voices → the same, where activity does not tell.
- ``stitching``: overlapping chunks on a grid → who is active in each frame.
- ``clustering``: embeddings → global speakers with stable numbers.
- ``speakers``: one lane's evidence, questions and turns.
- ``grid_speakers``: the same for a diarizer that looks at all audio.
- ``attribution``: words × turns → the speaker of each word.
- ``captions``: captions, and what was sent of them, so that it can be revised.

One lane, one session
- ``scripted_audio``: audio that spells out its own words, for tests and load tests.
- ``listening``: one lane's ear; accounts for every sample.
- ``recognition``: one lane's windows and committed words.
- ``handover``: what a lane commits before another server goes on with it.
- ``speech_times``: word times trimmed to where somebody speaks.
- ``eventlog``: a session's events, one read cursor per subscriber.
- ``delays``: how late each word was written.
- ``jobs``: what a session asks, as data for a scheduler.
- ``publishing``: one lane's text as events.
- ``asking``: what a lane wants of an engine.
- ``diarizing``: one lane's work for its diarizer.
- ``lagging``: when to say that captions are behind.
- ``lane``: the above wired together for one lane.
- ``resting``: pauses of the talker, in which utterances end.
- ``departure``: when a session stops listening because its server goes down.
- ``reading``: what the talker was given, and how late.
- ``acking``: how far a client may go on, and when to tell.
- ``naming``: what captions and speakers are called.
- ``closing``: the last event.
- ``checkpoint``: what a session that goes on after a crash must know, as bytes.
- ``keeping``: from where on a client must keep its audio.
- ``session``: one stream, from its first byte to its last event.

Many sessions, and afterwards
- ``batching``: which jobs go to an engine together.
- ``pacing``: how far apart partials are while engine time is short.
- ``suspicion``: whose jobs make calls fail.
- ``retrying``: what goes to an engine once more, or in parts.
- ``stalling``: when a stage counts as one that does not answer.
- ``exports``: events → JSON, TXT, SRT, VTT, RTTM, STM, CTM, SegLST.
"""
