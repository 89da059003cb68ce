"""Health check of the container: exit 0 when the server on this side of the network says that it is ready."""

import json
import sys
import urllib.request
from pathlib import Path

try:
    port = json.loads(Path("/etc/inferstack/runtime.json").read_text(encoding="utf-8"))["listen"]["port"]
    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
except (OSError, ValueError, KeyError) as error:
    sys.exit(f"not ready: {error}")
