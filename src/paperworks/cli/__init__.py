"""The command line: list, search and show papers; run their claims, race their peers; report; start a new one."""


def main() -> None:
    """Run the `paperworks` command."""
    import os
    import sys

    from paperworks.cli.app import app

    try:
        app()
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
