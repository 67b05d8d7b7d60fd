"""``captiond doctor``: what this machine has, what is missing, and how to close each gap.

- ``facts``: looks, with a limit on every look. ``microphone``: looks in a process of its own,
  as ``server/engines/torch_facts.py`` does.
- ``checks``: facts → findings; pure.
"""
