"""Who speaks when, measured: recordings with truth, embeddings once, clustering many times.

    recordings → hearing (speech) → evidence (embeddings, cached) → trial (speakers) → errors

``python -m tools.diarization_report`` prints the report; ``--sweep`` adds the table of parameters.
"""
