"""Stands in for the environment of a peer: answers for its packages, writes the model's folder, and serves three words to every prompt.

After $PEER_PROMPTS prompts it ends at the next one.
"""

import itertools
import json
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Answers(BaseHTTPRequestHandler):
    prompts = itertools.count(1)

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if next(self.prompts) > int(os.environ.get("PEER_PROMPTS", "1000")):
            print("no such instruction", flush=True)
            self.connection.shutdown(socket.SHUT_RDWR)
            time.sleep(0.3)  # its clients know of the end before it is over
            os._exit(4)
        self.send_response(200)
        self.end_headers()
        for word in ("one", "two", "three"):
            choice = {"delta": {"content": word}} if "chat" in self.path else {"text": word}
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


if __name__ == "__main__":
    written, arguments = Path(sys.argv[1]), sys.argv[2:]
    if arguments[0] == "-c":
        print("1.0")
    elif arguments[0].endswith("unquantized.py"):
        Path(arguments[2]).mkdir()
        written.write_text((written.read_text() if written.exists() else "") + f"{arguments[1]}\n")
    else:
        port = arguments[2] if arguments[0].endswith("llamacpp_server.py") else arguments[arguments.index("--port") + 1]
        ThreadingHTTPServer(("127.0.0.1", int(port)), Answers).serve_forever()
