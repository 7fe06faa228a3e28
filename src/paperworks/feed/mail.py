"""E-mail by SMTP, with the one distinction that matters for not sending twice: refused, or of unknown fate."""

import ipaddress
import re
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import parseaddr
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

_NO_SUCH_ADDRESS = re.compile(r"5\.1\.(?:1|2|3|6|10)\b")
"""Enhanced status codes (RFC 3463) of a recipient's address that takes no mail. 5.1.7 and 5.1.8 are of the sender's,
5.1.0 is used for both, and 5.7.1 is of what a relay allows."""


class NotSent(OSError):
    """The server did not take the message.

    `permanent` says that it never will take this one; `no_such_address` that the recipient's address is at fault.

    Parameters
    ----------
    reason
        What the server said.
    permanent
        Whether it never will take this message.
    no_such_address
        Whether the recipient's address is at fault.
    """

    def __init__(self, reason: str, *, permanent: bool = False, no_such_address: bool = False) -> None:
        super().__init__(reason)
        self.permanent, self.no_such_address = permanent, no_such_address


class Uncertain(OSError):
    """The message was handed over, but the server's answer was lost: it may have been sent, or not."""


class Mailer:
    """Sends messages through one SMTP server, over one connection as long as that lasts.

    Parameters
    ----------
    url
        ``smtp://user:password@host:port``, port 587 by default, with STARTTLS unless ``?starttls=no``;
        ``smtps://``, port 465, speaks TLS at once. A relay on this machine, ``smtp://localhost``, is spoken to without
        TLS, on port 25, unless ``?starttls=yes``. A password needs TLS, but for a server on this machine.
    sender
        The address that messages come from.
    timeout
        Seconds for each answer of the server.
    context
        Context of TLS; by default one that checks the server's certificate.

    Raises
    ------
    ValueError
        For a URL of another kind, a password that would travel in the clear, or a sender that isn't an address.
    """

    def __init__(self, url: str, sender: str, *, timeout: float = 30.0, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ValueError("url takes smtp://host:port or smtps://host:port, with user and password where needed")
        if "@" not in parseaddr(sender)[1] or "\n" in sender or "\r" in sender:
            raise ValueError(f"sender is {sender!r}; it takes an e-mail address")
        self.sender, self.host, self.timeout = sender, parts.hostname, timeout
        self._direct = parts.scheme == "smtps"
        local = self.host == "localhost" or _is_loopback(self.host)
        self._port = parts.port or (465 if self._direct else 25 if local else 587)
        starttls = parse_qs(parts.query).get("starttls", ["no" if local else "yes"])[0]
        if starttls not in ("yes", "no"):
            raise ValueError(f"url has starttls={starttls!r}; it takes yes or no")
        self._starttls = not self._direct and starttls == "yes"
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        if self._user and not self.encrypted and not local:
            raise ValueError("url has a password and no TLS; leave out ?starttls=no")
        self._context = context or ssl.create_default_context()
        self._server: smtplib.SMTP | None = None

    @property
    def encrypted(self) -> bool:
        """Whether mail goes to the server by TLS."""
        return self._direct or self._starttls

    def __str__(self) -> str:
        return f"{self.host}:{self._port}, {'by TLS' if self.encrypted else 'UNENCRYPTED'}"

    def __enter__(self) -> "Mailer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def message(self, to: str, subject: str, text: str, html: str = "", **headers: str) -> EmailMessage:
        """Return a message of plain text and, where given, HTML. Underscores in names of headers stand for hyphens.

        Parameters
        ----------
        to
            Address of the recipient.
        subject
            Line that the recipient sees first.
        text
            Body in plain text.
        html
            Body in HTML, empty for none.

        Returns
        -------
        EmailMessage
            The message, ready to be sent.
        """
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self.sender, to, subject
        for name, value in headers.items():
            message[name.replace("_", "-")] = value
        message.set_content(text)
        if html:
            message.add_alternative(html, subtype="html")
        return message

    def send(self, message: EmailMessage) -> None:
        """Send a message to the address of its ``To``.

        Raises
        ------
        NotSent
            Where it surely wasn't sent.
        Uncertain
            Where it may have been.
        """
        try:
            server = self._connected()
            refused = self._ask(server, "MAIL", server.mail, parseaddr(self.sender)[1])
            refused = refused or self._ask(server, "RCPT", server.rcpt, parseaddr(str(message["To"]))[1])
            refused = refused or self._ask(server, "DATA", server.docmd, "DATA", expected=354)
            if refused:
                self._forget(server)
                raise refused
        except NotSent:
            raise
        except smtplib.SMTPAuthenticationError as error:
            self.close()
            raise NotSent(f"the server refuses the sign-in: {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            raise NotSent(f"{type(error).__name__}: {error}") from None
        # From here on the server may take the message whatever we hear from it.
        try:
            body = message.as_bytes(policy=message.policy.clone(linesep="\r\n", max_line_length=998))
            server.send(re.sub(rb"(?m)^\.", b"..", body).rstrip(b"\r\n") + b"\r\n.\r\n")
            code, answer = server.getreply()
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            raise Uncertain(f"the answer was lost: {type(error).__name__}: {error}") from None
        if code != 250:
            raise NotSent(f"DATA: {code} {answer.decode(errors='replace')}", permanent=code >= 500)

    def greet(self) -> None:
        """Connect and sign in, and send nothing.

        Raises
        ------
        NotSent, OSError, smtplib.SMTPException
            Where the server can't be reached or refuses.
        """
        self._connected()

    def close(self) -> None:
        """End the connection."""
        if self._server is not None:
            try:
                self._server.quit()
            except (smtplib.SMTPException, OSError):
                self._server.close()
            self._server = None

    def _connected(self) -> smtplib.SMTP:
        if self._server is not None:
            try:
                if self._server.noop()[0] == 250:
                    return self._server
            except (smtplib.SMTPException, OSError):
                pass
            self.close()
        if self._direct:
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self._port, timeout=self.timeout, context=self._context)
        else:
            server = smtplib.SMTP(self.host, self._port, timeout=self.timeout)
        self._server = server
        server.ehlo()
        if self._starttls:
            try:
                server.starttls(context=self._context)
            except smtplib.SMTPNotSupportedError:
                self.close()
                raise NotSent("the server has no STARTTLS; ?starttls=no in its URL goes on unencrypted") from None
            server.ehlo()
        if self._user:
            server.login(self._user, self._password)
        return server

    def _forget(self, server: smtplib.SMTP) -> None:
        """Take back what was said of a message that is not sent; a server that has hung up forgets by itself."""
        try:
            server.rset()
        except (smtplib.SMTPException, OSError):
            self.close()

    @staticmethod
    def _ask(server: smtplib.SMTP, step: str, command: object, argument: str, expected: int = 250) -> NotSent | None:
        code, answer = command(argument)  # type: ignore[operator]
        if code == expected or (step == "RCPT" and code == 251):
            return None
        said = answer.decode(errors="replace")
        # What is said at MAIL is of the sender, at DATA of the message: neither is the recipient's fault. And whoever
        # runs the site can mend what a relay has against the sender, so that it is worth another try.
        return NotSent(
            f"{step}: {code} {said}",
            permanent=code >= 500 and step != "MAIL",
            no_such_address=step == "RCPT" and code >= 500 and bool(_NO_SUCH_ADDRESS.match(said)),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
