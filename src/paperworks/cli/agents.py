"""`paperworks mcp`."""

from typing import Annotated

import typer

from paperworks.cli.app import app, errors_of_use, fail


@app.command()
def mcp(
    http: Annotated[
        bool, typer.Option("--http", help="Serve by HTTP on this machine, not by standard streams.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --http: the loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --http: the port; 0 for any free one.")] = 8765,
) -> None:
    """Serve the papers to agents by the Model Context Protocol: to search, show, read evidence, and run claims.

    A client starts this command itself and speaks with it by standard input and output.
    """
    try:
        from paperworks.agents import create_server, serve_http, serve_stdio

        server = create_server()
    except ModuleNotFoundError as error:
        fail(f"agents need the package {error.name}; install what serves them:  pip install 'paperworks[agents]'")
    with errors_of_use():
        if http:
            serve_http(server, host, port)
        else:
            serve_stdio(server)
