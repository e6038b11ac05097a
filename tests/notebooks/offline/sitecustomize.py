"""Put on PYTHONPATH of a kernel, this closes the network: only connections to this very machine are allowed.

Python imports a module of this name at start. Kernels talk to their client over the loopback, so that stays
open.
"""

import socket

_connect = socket.socket.connect


def connect(self, address):
    host = address[0] if isinstance(address, tuple) else ""
    if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the network is closed in this test: a connection to {host} was tried")
    return _connect(self, address)


def getaddrinfo(host, *args, _original=socket.getaddrinfo, **kwargs):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        raise socket.gaierror(f"the network is closed in this test: the address of {host} was asked for")
    return _original(host, *args, **kwargs)


socket.socket.connect = connect
socket.getaddrinfo = getaddrinfo
