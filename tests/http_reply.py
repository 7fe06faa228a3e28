import http.server
from urllib.parse import parse_qs, urlsplit


def reply(
    request: http.server.BaseHTTPRequestHandler, body: str | bytes = b"", status: int = 200, **headers: str
) -> None:
    """Answer a request."""
    data = body.encode() if isinstance(body, str) else body
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def query_of(request: http.server.BaseHTTPRequestHandler) -> dict[str, str]:
    """Return what a request asks for."""
    return {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
