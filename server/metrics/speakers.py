"""Who said what: how late that is known, and how often it changes."""

from server.metrics.making import MetricMaker

LAG_BUCKETS_S = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Half a minute late, audio is dropped from the diarizer's queue."""


class SpeakerMetrics(MetricMaker):
    """Of the diarizer's answers."""

    def _make_speaker_metrics(self) -> None:
        self.diarization_lag_seconds = self._histogram(
            "diarization_lag_seconds",
            "Per chunk of live audio: heard by the diarizer, after it had arrived.",
            LAG_BUCKETS_S,
        )
        self.speaker_chunks_dropped = self._live_counter(
            "speaker_chunks_dropped", "Chunks of audio that no diarizer looked at."
        )
        self.revisions = self._live_counter(
            "revisions", "Captions whose speakers were changed after they had been sent."
        )
        self.words_revised = self._live_counter(
            "words_revised", "Words in those changes; one that changes twice counts twice."
        )
