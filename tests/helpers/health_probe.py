"""How long the gateway takes for what it answers by itself, seen from a process of its own.

`python -m helpers.health_probe URL` asks until its input closes, and writes the times as JSON.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit


def main() -> None:
    """Ask until standard input closes."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    times: list[float] = []
    wrong: list[str] = []
    while not over.is_set():
        started = time.monotonic()
        connection = http.client.HTTPConnection(urlsplit(sys.argv[1]).netloc, timeout=30)
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                wrong.append(f"/health: {response.status}")
        except (OSError, http.client.HTTPException) as error:
            wrong.append(f"/health: {error!r}")
        finally:
            connection.close()
        times.append(time.monotonic() - started)
        over.wait(0.02)
    print(json.dumps({"times": times, "wrong": wrong}))


if __name__ == "__main__":
    main()
