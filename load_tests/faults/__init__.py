"""Faults on purpose: programs that break a real server or store and count what was lost."""
