"""Open-loop load on a captiond server, with answers known to the word: ``python -m load_tests``.

``workload`` says what each virtual user speaks, ``replay`` speaks it at real-time pace and notes
what comes back, ``oracle`` compares the two word by word, ``report`` turns it into figures.
"""
