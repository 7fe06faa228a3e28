import asyncio
import email
import socket
from contextlib import contextmanager

from aiosmtpd.controller import Controller


class Post:
    """A mail server that keeps what it gets, and refuses, drops or waits where it is told to."""

    def __init__(self):
        self.got, self.refuse, self.drop_after_data, self.drop_at_rcpt, self.pause = [], {}, set(), set(), 0.0
        self.refuse_sender = self.refuse_data = ""
        self.asked = 0

    async def handle_MAIL(self, server, session, envelope, address, options):
        self.asked += 1
        if self.refuse_sender:
            return self.refuse_sender
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.drop_at_rcpt:
            server.transport.abort()
            return "421 gone"
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if self.refuse_data:
            return self.refuse_data
        self.got.append((envelope.rcpt_tos[0], email.message_from_bytes(envelope.content)))
        if self.pause:
            await asyncio.sleep(self.pause)
        if envelope.rcpt_tos[0] in self.drop_after_data:
            server.transport.abort()
        return "250 OK"

    def addresses(self):
        return [address for address, _ in self.got]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def mail_server():
    """Start a mail server, and give it with its URL."""
    post = Post()
    controller = Controller(post, hostname="127.0.0.1", port=free_port())
    controller.start()
    post.url = f"smtp://127.0.0.1:{controller.port}?starttls=no"
    try:
        yield post
    finally:
        controller.stop()
