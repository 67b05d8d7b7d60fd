"""The microphones that PortAudio sees, as one line of JSON: run as a program.

PortAudio may crash or hang on a broken sound system, and prints what it likes.
"""

import json
from typing import Any


def main() -> None:
    import sounddevice  # fails without PortAudio, which is the finding

    devices: list[dict[str, Any]] = list(sounddevice.query_devices())
    names = [device["name"] for device in devices if device["max_input_channels"] > 0]
    print(json.dumps({"microphones": names}), flush=True)  # noqa: T201  its only output


if __name__ == "__main__":
    main()
