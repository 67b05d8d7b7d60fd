"""The ``captiond`` command: parses arguments and hands over."""

from server.commands import app


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
