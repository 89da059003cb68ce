"""A process that keeps the contract of the runtime with no model behind it, so that supervision is tested in milliseconds.

    python fake_runtime.py serve --config FILE

The model's source says how it misbehaves: `file:///fails`, `file:///limited`.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
SOURCE = CONFIG["models"][0]["source"]
STATE = {"ready": False, "draining": False, "in_flight": 0}
LOCK = threading.Lock()
WORDS = 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def respond(self, status, body):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.identify()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def identify(self):
        self.send_header("x-inferstack-slot", CONFIG["identity"]["slot"])
        self.send_header("x-inferstack-generation", str(CONFIG["identity"]["generation"]))
        self.send_header("x-inferstack-model-digest", "sha256:" + "0" * 64)
        if STATE["draining"]:
            self.send_header("Connection", "close")

    def do_GET(self):
        if self.path == "/metrics":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", "14")
            self.end_headers()
            self.wfile.write(b"fake_ready 1\n\n")
            return
        ready = STATE["ready"] and not STATE["draining"]
        body = {
            "ready": ready,
            "draining": STATE["draining"],
            "reason": None if ready else "draining" if STATE["draining"] else "warming up",
            "slot": CONFIG["identity"]["slot"],
            "generation": CONFIG["identity"]["generation"],
            "model_digest": "sha256:" + "0" * 64,
            "in_flight": STATE["in_flight"],
        }
        self.respond(200 if self.path != "/readyz" or ready else 503, body)

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        keys = json.loads(Path(CONFIG["access"]["keys_file"]).read_text())
        if not self.headers.get("Authorization", "").startswith("Bearer sk-") or not keys["keys"]:
            self.respond(401, {"error": {"message": "Invalid token", "type": "invalid_request_error"}})
            return
        if SOURCE == "file:///limited":
            self.respond(429, {"error": {"message": "too many requests", "type": "rate_limit_error"}})
            return
        with LOCK:
            STATE["in_flight"] += 1
        try:
            self.send_response(200)
            self.identify()
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for index in range(min(WORDS, request.get("max_tokens") or WORDS)):
                self.event({"choices": [{"index": 0, "delta": {"content": f"word{index} "}, "finish_reason": None}]})
                time.sleep(0.01)
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        finally:
            with LOCK:
                STATE["in_flight"] -= 1

    def event(self, data):
        self.chunk(
            b"data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", **data}).encode() + b"\n\n"
        )

    def chunk(self, payload):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload))
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def drain(*_):
    STATE["draining"] = True

    def finish():
        time.sleep(0.2)
        while STATE["in_flight"]:
            time.sleep(0.01)
        os._exit(0)

    threading.Thread(target=finish).start()


def main():
    if SOURCE == "file:///fails":
        print(json.dumps({"level": "error", "message": "cannot load file:///fails: no such file"}), file=sys.stderr)
        sys.exit(5)
    signal.signal(signal.SIGTERM, drain)
    listen = CONFIG["listen"]
    server = Server((listen["host"], listen["port"]), Handler)
    metrics = Server((CONFIG["metrics"]["host"], CONFIG["metrics"]["port"]), Handler)
    threading.Thread(target=metrics.serve_forever, daemon=True).start()
    print(json.dumps({"event": "listening", "port": listen["port"], "metrics_port": CONFIG["metrics"]["port"], "seconds": 0}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    time.sleep(0.1)
    STATE["ready"] = True
    print(json.dumps({"event": "ready", "seconds": 0.1}), flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
