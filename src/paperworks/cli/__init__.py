"""The command line: list, search and show papers; run their claims, race their peers; report; start a new one."""


def main() -> None:
    """Run the `paperworks` command."""
    from paperworks.cli.app import app

    app()
