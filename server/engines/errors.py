"""Why an engine cannot run. Imports nothing, so that the front process may use it."""


class EngineUnavailable(Exception):
    """The engine cannot be loaded; the message is one line that says what to do next."""
