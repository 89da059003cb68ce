"""Runs llama.cpp's own HTTP server from the xllamacpp package: PYTHON llamacpp_server.py MODEL PORT THREADS SLOTS CONTEXT.

Executed by the interpreter of the peer's virtual environment, not imported.
"""

import importlib
import sys
import threading

model, port, threads, slots, context = sys.argv[1], *(int(argument) for argument in sys.argv[2:6])
xllamacpp = importlib.import_module("xllamacpp")
settings = xllamacpp.CommonParams()
settings.model.path = model
settings.hostnames = ["127.0.0.1"]
settings.port = port
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
settings.n_parallel = slots
settings.n_ctx = slots * context
settings.cont_batching = True
settings.cache_prompt = False
server = xllamacpp.Server(settings)
threading.Event().wait()
