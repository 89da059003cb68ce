"""Health check of the container: exit 0 when the server on this side of the network says that it is ready."""

import json
import sys
import urllib.request
from pathlib import Path

try:
    with Path("/etc/inferstack/runtime.json").open(encoding="utf-8") as file:
        port = json.load(file).get("listen", {}).get("port", 8000)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
except (OSError, ValueError) as error:
    sys.exit(f"not ready: {error}")
