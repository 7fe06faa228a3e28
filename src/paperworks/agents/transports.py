"""How clients reach the server: by its standard streams, or by HTTP on this machine alone."""

import ipaddress
import socket
import sys

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_MOST = 2**18  # bytes of a request


def serve_stdio(server: MCPServer) -> None:
    """Serve one client by standard input and output until it goes; the log goes to standard error.

    Parameters
    ----------
    server
        What `create_server` made.
    """
    server.run("stdio")


def serve_http(server: MCPServer, host: str = "127.0.0.1", port: int = 8765) -> None:
    """Serve clients on this machine by streamable HTTP at ``/mcp`` until it is stopped.

    Only requests are answered whose ``Host`` is this address and whose ``Origin``, where a browser sends one, is too,
    so that no page of the web can reach it by a name that leads here.

    Parameters
    ----------
    server
        What `create_server` made.
    host
        A loopback address, such as 127.0.0.1 or ::1, or localhost.
    port
        A port, 0 for any that is free.

    Raises
    ------
    ValueError
        Where `host` is no loopback address.
    OSError
        Where the port is taken.
    """
    import uvicorn

    address = loopback(host)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listening = socket.create_server((str(address), port), family=family)
    port = listening.getsockname()[1]
    app = server.streamable_http_app(
        host=str(address), transport_security=_only_here(address, port), max_request_body_size=_MOST
    )
    shown = f"http://{_in_url(address)}:{port}/mcp"
    print(f"Serving {shown} to clients on this machine; Ctrl-C ends it", file=sys.stderr, flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    anyio.run(lambda: uvicorn.Server(config).serve(sockets=[listening]))


def loopback(host: str) -> Address:
    """Return the address of a host, which has to be one of this machine that no other reaches.

    Examples
    --------
    >>> loopback("localhost")
    IPv4Address('127.0.0.1')
    >>> loopback("0.0.0.0")
    Traceback (most recent call last):
    ValueError: host is '0.0.0.0'; it takes a loopback address, such as 127.0.0.1 or ::1
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ValueError(f"host is {host[:80]!r}; it takes a loopback address, such as 127.0.0.1 or ::1")
    return address


def _only_here(address: Address, port: int) -> TransportSecuritySettings:
    hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", _in_url(address))]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts])


def _in_url(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
