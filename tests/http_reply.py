import http.server


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
