"""Runs a Pulumi program against a resource monitor in this process: no account, no cluster, no `pulumi` binary."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when grpc is first imported; it logs every orderly end of a connection
