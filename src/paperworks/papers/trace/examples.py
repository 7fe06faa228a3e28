"""Two examples that follow a script to the letter, and a server of a language model that misbehaves."""

from typing import Any

from paperworks.optimization import (
    LLMError,
    OpenAICompatibleClient,
    OptoPrime,
    ScriptedLLM,
    bundle,
    node,
    train_workflow,
)
from paperworks.papers.trace.server import misbehaving


def greeting() -> bool:
    """Follow a script that repairs a greeting in two languages, text and code."""
    word = node("Hello", trainable=True, name="greeting", constraint="one word")

    @bundle(trainable=True)
    def choose(query, word):  # type: ignore[no-untyped-def]
        """Choose the greeting by the language of the query."""
        return word

    query = node("Hola, soy Juan.")
    llm = ScriptedLLM(
        [
            '{"reasoning": "Spanish", "suggestion": {"' + word.py_name + '": "Hola"}}',
            '{"reasoning": "by language", "suggestion": {"' + choose.parameter.py_name + '": '
            "\"def choose(query, word):\n    return word if 'Hola' in query else 'Hello'\"}}",
            "TERMINATE",
        ]
    )
    optimizer = OptoPrime([word, choose.parameter], llm, allow_code=True)
    said = ["greet in Spanish", "say it by the language", "correct"]
    seen = []
    for feedback in said:
        output = choose(query, word) + "!"
        seen.append(output.data)
        optimizer.zero_feedback()
        optimizer.backward(output, feedback)
        optimizer.step()
    other = (choose(node("I am John."), word) + "!").data
    return seen == ["Hello!", "Hola!", "Hola!"] and other == "Hello!" and optimizer.status == "terminated"


def strange_sort() -> bool:
    """Follow a script that writes the code of a strange sorting (least, greatest, next least, ...) from failed
    tests.
    """

    @bundle(trainable=True)
    def strange_sort(values):  # type: ignore[no-untyped-def]
        """Return least, greatest, next least, next greatest and so on."""
        return sorted(values)

    head = "def strange_sort(values):\n"
    name = strange_sort.parameter.py_name
    wrong = head + "    values = sorted(values)\n    return [values.pop(0 if i % 2 else 9) for i in range(len(values))]"
    right = head + "    values = sorted(values)\n    return [values.pop(-(i % 2)) for i in range(len(values))]"
    llm = ScriptedLLM(["```json\n" + _json({name: source}) + "\n```" for source in (wrong, right)] + ["TERMINATE"])
    optimizer = OptoPrime([strange_sort.parameter], llm, allow_code=True)

    def guide(wanted: Any, output: Any) -> Any:
        return (1.0, "correct") if output == wanted else (0.0, f"{output} is wrong, it should have been {wanted}")

    result = train_workflow(strange_sort, [([1, 2, 3, 4], [1, 4, 2, 3])] * 5, guide, optimizer)
    raised = "<--- (IndexError)" in llm.asked[1][1]["content"]
    return result == ([0.0, None, 1.0], 3, "terminated") and raised and strange_sort.source == right


def _json(suggestion: dict[str, str]) -> str:
    import json

    return json.dumps({"reasoning": "", "answer": "", "suggestion": suggestion})


def bad_replies() -> tuple[list[bool], list[list[str]]]:
    """Ask a local server that misbehaves, and see that nothing is lost and a second step goes on."""
    good: dict[str, Any] = {"suggestion": {"dose0": 4.0}}
    cases: dict[str, tuple[list[Any], str]] = {
        "429 twice, then an answer": (["429", "429", good], "answered"),
        "503, a cut connection, then an answer": (["503", "cut", good], "answered"),
        "no JSON, an empty answer, then an answer": (["nonsense", "empty", good], "answered"),
        "malformed JSON inside the answer": (['Sure: {"suggestion": {"dose0": 4.0,}} Bye'], "answered"),
        "TERMINATE": (["TERMINATE"], "terminated"),
        "429 without an end": (["429"] * 4, "error"),
        "nothing at all": (["silence"] * 4, "error"),
        "401": (["401"], "error"),
    }
    handled, rows = [], []
    for name, (replies, wanted) in cases.items():
        dose = node(2.0, trainable=True, name="dose")
        good["suggestion"] = {dose.py_name: 4.0}
        told = [r.replace("dose0", dose.py_name) if isinstance(r, str) else r for r in replies]
        with misbehaving([*told, good]) as url:
            client = OpenAICompatibleClient(url, "stub", "secret", timeout=0.2, max_retries=3, backoff=0.001)
            optimizer = OptoPrime([dose], client)
            optimizer.backward(dose * 3.0, "should be 12")
            try:
                optimizer.step()
                seen = "terminated" if optimizer.status == "terminated" else "answered"
                ok = seen == wanted and (dose.data == 4.0) == (seen == "answered")
                shown = f"{seen}, value {dose.data:g}"
            except LLMError as error:
                kept = dose.data == 2.0 and "secret" not in str(error)
                optimizer.step()  # the same step again: its feedback was kept
                ok = wanted == "error" and kept and dose.data == 4.0
                shown = f"{str(error).partition('; ')[2][:90]} – then again: value {dose.data:g}"
        handled.append(ok)
        rows.append([name, shown])
    return handled, rows
