"""Language models, as functions from messages to text: over HTTP, scripted, recorded and replayed.

Nothing here needs more than the standard library. A model is whatever takes a list of messages, each with a `role` and
a `content`, and returns a text.
"""

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paperworks.core.validation import check_count, check_number
from paperworks.optimization.workflows.errors import LLMError

Messages = list[dict[str, str]]
MOST_BYTES = 32 * 2**20


class LanguageModel(ABC):
    """Base of what answers messages by a text; it counts what it was asked.

    Attributes
    ----------
    calls
        How many questions were asked.
    prompt_chars
        How many characters all questions had.

    Examples
    --------
    >>> from paperworks.optimization import CallableLLM
    >>> llm = CallableLLM(lambda messages: messages[-1]["content"].upper())
    >>> llm([{"role": "user", "content": "hi"}]), llm.calls, llm.prompt_chars
    ('HI', 1, 2)
    """

    def __init__(self) -> None:
        self.calls = 0
        self.prompt_chars = 0
        self._lock = threading.Lock()

    def __call__(self, messages: Messages, **options: Any) -> str:
        check_messages(messages)
        with self._lock:
            self.calls += 1
            self.prompt_chars += sum(len(m["content"]) for m in messages)
        return self.answer(messages, **options)

    @abstractmethod
    def answer(self, messages: Messages, **options: Any) -> str:
        """Return the answer to some messages.

        Parameters
        ----------
        messages
            Dictionaries with `role` and `content`.

        Returns
        -------
        str
            The answer's text.
        """


def check_messages(messages: Any) -> None:
    """Raise an error where something is no list of messages."""
    if not isinstance(messages, list) or not messages:
        raise TypeError(f"messages is {messages!r}; it takes a list of dictionaries with role and content")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise TypeError(f"messages has {message!r}; it takes dictionaries with role and content, both texts")


class CallableLLM(LanguageModel):
    """A language model from a function of messages, such as one that runs on this machine.

    Parameters
    ----------
    function
        From messages, and options by name, to a text.

    Examples
    --------
    >>> from paperworks.optimization import CallableLLM
    >>> CallableLLM(lambda messages: "42")([{"role": "user", "content": "What?"}])
    '42'
    """

    def __init__(self, function: Callable[..., str]) -> None:
        if not callable(function):
            raise TypeError(f"function is {function!r}; it takes a function of messages")
        super().__init__()
        self.function = function

    def answer(self, messages: Messages, **options: Any) -> str:
        """Return what the function says.

        Parameters
        ----------
        messages
            Dictionaries with `role` and `content`.

        Returns
        -------
        str
            The answer's text.

        Raises
        ------
        LLMError
            Where the function returns no text.
        """
        text = self.function(messages, **options)
        if not isinstance(text, str):
            raise LLMError(f"the language model's function returned {text!r}; it takes a text")
        return text


class ScriptedLLM(LanguageModel):
    """Gives prepared answers one after the other, for tests and examples.

    Parameters
    ----------
    answers
        Texts, or exceptions to raise.

    Examples
    --------
    >>> from paperworks.optimization import ScriptedLLM
    >>> llm = ScriptedLLM(["one", "two"])
    >>> ask = [{"role": "user", "content": "next"}]
    >>> llm(ask), llm(ask), len(llm.asked)
    ('one', 'two', 2)
    """

    def __init__(self, answers: Iterable[str | Exception]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[Messages] = []

    def answer(self, messages: Messages, **options: Any) -> str:
        """Return the next prepared answer.

        Parameters
        ----------
        messages
            Dictionaries with `role` and `content`, kept in `asked`.

        Returns
        -------
        str
            The answer's text.

        Raises
        ------
        LLMError
            Where all answers were given.
        """
        self.asked.append(messages)
        if len(self.asked) > len(self.answers):
            raise LLMError(f"all {len(self.answers)} scripted answers were given")
        answer = self.answers[len(self.asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


def message_key(messages: Messages, options: dict[str, Any] | None = None) -> str:
    """Return the key of a question in a cassette: a digest of its messages and options."""
    text = json.dumps([messages, options or {}], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


class ReplayLLM(LanguageModel):
    """Answers from a cassette that `RecordingLLM` wrote; what isn't in it is an error.

    The same question asked again gets the next answer that was recorded for it, and the last one from then on.

    Parameters
    ----------
    path
        File of JSON lines with `key` and `answer`. A line that was cut off by a crash is skipped.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from paperworks.optimization import RecordingLLM, ReplayLLM, ScriptedLLM
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cassette.jsonl"
    >>> ask = [{"role": "user", "content": "hi"}]
    >>> RecordingLLM(ScriptedLLM(["hello"]), path)(ask)
    'hello'
    >>> ReplayLLM(path)(ask)
    'hello'
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._answers = _read_cassette(self.path)
        self._given: dict[str, int] = {}

    def answer(self, messages: Messages, **options: Any) -> str:
        """Return the recorded answer.

        Parameters
        ----------
        messages
            Dictionaries with `role` and `content`.

        Returns
        -------
        str
            The answer's text.

        Raises
        ------
        LLMError
            Where this question was not recorded.
        """
        key = message_key(messages, options)
        answers = self._answers.get(key)
        if not answers:
            raise LLMError(f"cassette {self.path} has no answer to {messages[-1]['content'][:200]!r}")
        number = self._given.get(key, 0)
        self._given[key] = number + 1
        return answers[min(number, len(answers) - 1)]


class RecordingLLM(LanguageModel):
    """Asks another model, and writes every answer to a cassette at once; what is in the cassette is not asked again.

    A run that was interrupted goes on where it was: its first questions are answered from the file.

    Parameters
    ----------
    llm
        The model that is asked.
    path
        File of JSON lines, made where there is none.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from paperworks.optimization import RecordingLLM, ScriptedLLM
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cassette.jsonl"
    >>> ask = [{"role": "user", "content": "hi"}]
    >>> RecordingLLM(ScriptedLLM(["hello"]), path)(ask)
    'hello'
    >>> RecordingLLM(ScriptedLLM([]), path)(ask)
    'hello'
    """

    def __init__(self, llm: Callable[..., str], path: str | Path) -> None:
        super().__init__()
        self.llm, self.path = llm, Path(path)
        self._answers = _read_cassette(self.path) if self.path.exists() else {}
        self._given: dict[str, int] = {}

    def answer(self, messages: Messages, **options: Any) -> str:
        """Return the recorded answer, or that of the model, which is then recorded.

        Parameters
        ----------
        messages
            Dictionaries with `role` and `content`.

        Returns
        -------
        str
            The answer's text.
        """
        key = message_key(messages, options)
        with self._lock:
            number = self._given.get(key, 0)
            known = self._answers.get(key, [])
            if number < len(known):
                self._given[key] = number + 1
                return known[number]
        text = self.llm(messages, **options)
        line = json.dumps({"key": key, "messages": messages, "answer": text}, ensure_ascii=False)
        with self._lock:
            broken = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if broken else "") + line + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._answers.setdefault(key, []).append(text)
            self._given[key] = number + 1
        return text


def _read_cassette(path: Path) -> dict[str, list[str]]:
    answers: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            answers.setdefault(entry["key"], []).append(str(entry["answer"]))
        except (ValueError, KeyError, TypeError):
            continue
    return answers


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to whoever the reply names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class OpenAICompatibleClient(LanguageModel):
    """Asks any server that speaks the chat interface of OpenAI: a vendor's, or one on this machine.

    Replies of 429 and 5xx, connections that fail or take too long, and replies that can't be read are tried again with
    waiting times that double (or as long as the server asks by `Retry-After`, up to a minute). Then, and at once for
    every other refusal, an `LLMError` says what came back. Redirects are not followed, and the key is in no message.

    Parameters
    ----------
    base_url
        Address up to and without `/chat/completions`, as in `http://localhost:11434/v1`.
    model
        Name of the model, as the server knows it.
    api_key
        Key that is sent as a bearer token; None where the server asks for none.
    timeout
        Seconds without a byte after which a try counts as failed; one that goes on for ten times as long does too.
    max_retries
        Tries after the first.
    json_mode
        Whether the server is asked for an object of JSON.
    backoff
        Seconds before the second try; doubled for each one after.
    options
        What is sent along with each question, such as `temperature` or `max_tokens`.

    Raises
    ------
    ValueError
        Where the address is none of HTTP.

    Examples
    --------
    >>> from paperworks.optimization import OpenAICompatibleClient
    >>> llm = OpenAICompatibleClient("http://localhost:11434/v1", "llama3.2", options={"temperature": 0})
    >>> llm([{"role": "user", "content": "Say hi."}])  # doctest: +SKIP
    'Hi!'
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        max_retries: int = 5,
        json_mode: bool = False,
        backoff: float = 1.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"base_url is {base_url!r}; it takes an address that begins with http:// or https://")
        self.base_url, self.model = base_url.rstrip("/"), model
        self._key = api_key
        self.timeout = check_number("timeout", timeout, gt=0)
        self.max_retries = check_count("max_retries", max_retries, at_least=0)
        self.backoff = check_number("backoff", backoff, ge=0)
        self.json_mode, self.options = json_mode, dict(options or {})
        self._opener = urllib.request.build_opener(_NoRedirects)

    def answer(self, messages: Messages, **options: Any) -> str:
        """Return the server's answer.

        Parameters
        ----------
        messages
            Dictionaries with `role` and `content`.

        Returns
        -------
        str
            The answer's text.

        Raises
        ------
        LLMError
            Where no answer came that can be read, after all tries.
        """
        body = {"model": self.model, "messages": messages, **self.options, **options}
        if self.json_mode:
            body["response_format"] = {"type": "json_object"}
        data = json.dumps(body).encode()
        failure, status = "", None
        for attempt in range(1, self.max_retries + 2):
            status, wait = None, self.backoff * 2 ** (attempt - 1)
            try:
                reply = self._post(data)
            except urllib.error.HTTPError as error:
                status = error.code
                failure = f"status {status}: {error.excerpt}"
                if status not in (408, 409, 429) and status < 500:
                    raise LLMError(self._message(failure, attempt), status=status, attempts=attempt) from None
                wait = max(wait, _retry_after(error.headers.get("Retry-After")))
            except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut off
                failure = f"no reply ({type(error).__name__}: {getattr(error, 'reason', error)})"
            else:
                text, failure = _content(reply)
                if text is not None:
                    return text
                status = 200
            if attempt <= self.max_retries:
                time.sleep(min(wait, 60.0))
        raise LLMError(self._message(failure, self.max_retries + 1), status=status, attempts=self.max_retries + 1)

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.base_url}/chat/completions", data, headers, method="POST")
        done: dict[str, Any] = {}
        # In a thread of its own: a header or the text of a refusal may come byte by byte, each within the timeout.
        reader = threading.Thread(target=self._exchange, args=(request, done), daemon=True)
        reader.start()
        reader.join(10 * self.timeout)
        if "error" in done:
            raise done["error"]
        if "reply" not in done:
            raise TimeoutError(f"the reply doesn't end within {10 * self.timeout:g} s")
        return done["reply"]

    def _exchange(self, request: urllib.request.Request, done: dict[str, Any]) -> None:
        deadline, size, parts = time.monotonic() + 10 * self.timeout, 0, []
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                while part := response.read1(65536):
                    parts.append(part)
                    size += len(part)
                    if size > MOST_BYTES:
                        raise OSError(f"the reply has more than {MOST_BYTES} bytes")
                    if time.monotonic() > deadline:
                        return
                if response.length:
                    raise http.client.IncompleteRead(b"".join(parts), response.length)
            done["reply"] = b"".join(parts)
        except urllib.error.HTTPError as error:
            error.excerpt = self._excerpt(error)  # type: ignore[attr-defined]
            done["error"] = error
        except Exception as error:
            done["error"] = error

    def _excerpt(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read(2000).decode(errors="replace")
        except (OSError, http.client.HTTPException, ValueError):
            text = ""
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:300] or str(error.reason)

    def _message(self, failure: str, attempts: int) -> str:
        tries = "one try" if attempts == 1 else f"{attempts} tries"
        return f"{self.base_url} gave no answer of model {self.model!r} in {tries}; the last: {failure}"

    def __repr__(self) -> str:
        return f"OpenAICompatibleClient({self.base_url!r}, {self.model!r})"


def _retry_after(value: str | None) -> float:
    try:
        return max(0.0, float(value)) if value else 0.0
    except ValueError:
        return 0.0


def _content(reply: bytes) -> tuple[str | None, str]:
    """Return the text of a reply, or None and what is wrong with it."""
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError):
        return None, f"a reply that is no JSON: {reply[:200].decode(errors='replace')!r}"
    try:
        text = found["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None, f"a reply without choices[0].message.content: {reply[:200].decode(errors='replace')!r}"
    if isinstance(text, list):  # parts, of some servers
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if not isinstance(text, str) or not text.strip():
        return None, f"an empty answer: {text!r}"
    return text.encode(errors="replace").decode(), ""  # half a surrogate pair can't be written to files
