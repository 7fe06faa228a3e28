"""Optimisers of workflows, with and without a language model, what models answer, and what goes wrong on the way."""

import json
import math

import numpy as np
import pytest

from paperworks.optimization import (
    OPRO,
    AnswerError,
    BayesOptimizer,
    CallableLLM,
    ExecutionError,
    Feedback,
    FiniteFeedbackOptimizer,
    LLMError,
    OpenAICompatibleClient,
    OptoPrime,
    OptoPrimeMulti,
    RecordingLLM,
    ReplayLLM,
    Sandbox,
    ScriptedLLM,
    SearchOptimizer,
    SymbolicInverse,
    TextGrad,
    TraceAutodiff,
    bundle,
    coerce,
    minimal_subgraph,
    node,
    parse_answer,
    problem_report,
    read_feedback,
    train_workflow,
)
from paperworks.optimization.workflows.feedback import direction_in, hints_in, target_in
from paperworks.optimization.workflows.mutations import code_mutations
from paperworks.optimization.workflows.search import lines_behind
from paperworks.papers.trace.server import misbehaving


def number(value, **options):
    return node(value, trainable=True, **options)


def suggest(parameter, value):
    return json.dumps({"reasoning": "r", "answer": "", "suggestion": {parameter.py_name: value}})


# Feedback in words.


@pytest.mark.parametrize(
    ("feedback", "score"),
    [(0.5, 0.5), ("Score: -1e-3, poor", -1e-3), ((2, "fine"), 2.0), ("nothing", None), (math.nan, None), (True, 1.0)],
)
def test_scores_are_read(feedback, score):
    assert read_feedback(feedback).score == score


def test_words_are_read():
    assert target_in("The output should be -3.5e2.") == -350.0
    assert target_in("expected: 4, got 5") == 4.0
    assert [direction_in(t) for t in ("higher", "it is too high", "correct", "gradient: -2", "what?")] == [
        1,
        -1,
        0,
        2,
        None,
    ]
    assert hints_in("kp: too low. kd: too high", ["kp", "kd", "k"]) == {"kp": 1.0, "kd": -1.0}
    assert hints_in("x", []) == {}


# Answers of language models.


@pytest.mark.parametrize(
    "answer",
    [
        '{"suggestion": {"x": 5}}',
        'Sure:\n```json\n{"reasoning": "r", "suggestion": {"x": 5}}\n```\nBye {all}',
        "{'suggestion': {'x': 5}}",
        '{"suggestion": {"x": 5,},}',
        '{"suggestion": {"x": 5}',
        '{"x": 5}',
        "x = 5",
        '"x": 5 is better',
        'First {"a": 1}, then {"suggestion": {"x": 5}}.',
        '{"suggestion": "{\\"x\\": 5}"}',
        '{"suggestion": [{"x": 5}]}',
        '<think>{"x": 1}</think> {"suggestion": {"x": 5}}',
        '{"reasoning": "he said "no"", "suggestion": {"x": 5}}',
    ],
)
def test_awkward_answers_are_read(answer):
    assert parse_answer(answer, ["x"]).suggestion == {"x": 5}


@pytest.mark.parametrize(
    "answer", ["TERMINATE", '{"suggestion": "TERMINATE"}', '{"answer": "TERMINATE", "suggestion": {}}']
)
def test_the_end_is_read(answer):
    assert parse_answer(answer, ["x"]).terminate


@pytest.mark.parametrize("answer", ["", "I don't know.", "[1, 2]", "{", "null"])
def test_nonsense_is_an_error(answer):
    with pytest.raises(AnswerError, match="no suggestion"):
        parse_answer(answer, ["x"])


def test_raw_line_breaks_in_code_are_kept():
    answer = '{"suggestion": {"code0": "def f(x):\n    return x"}}'
    assert parse_answer(answer, ["code0"]).suggestion["code0"] == "def f(x):\n    return x"


@pytest.mark.parametrize(
    ("value", "current", "made"),
    [
        ("1e-3", 0.5, 0.001),
        (3.0, 1, 3),
        ("1e3", 1, 1000),
        ("False", True, False),
        ("[1, 2]", [0], [1, 2]),
        ("(1, 2)", (0,), (1, 2)),
        ({"a": 1}, {}, {"a": 1}),
        (5, "text", "5"),
        ([1, 1], {0}, {1}),
    ],
)
def test_suggestions_take_the_type_of_the_value(value, current, made):
    found = coerce(value, number(current))
    assert found == made
    assert type(found) is type(made)
    assert coerce([1, 2], number(np.zeros(2))).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "current"),
    [
        ("much", 0.5),
        (0.5, 1),
        ("maybe", True),
        (math.inf, 1.0),
        ("nan", 1.0),
        (3, [1]),
        (True, 2.0),
        ([1.0], np.zeros(2)),
    ],
)
def test_what_is_of_another_type_is_refused(value, current):
    with pytest.raises(ValueError, match="value"):
        coerce(value, number(current))


# Optimisers that ask.


def test_the_report_has_all_sections_and_masks():
    x, y = number(2, name="rx", constraint="even", bounds=(0, 10)), number("long " * 1000, name="ry")
    fixed = node(7, name="rz")

    @bundle
    def join(a, b):
        "Join two."
        return f"{a}{b}"

    out = join(x * fixed, y)
    report = problem_report(minimal_subgraph(out, Feedback(0.5, "poor")), [x], max_chars=100)
    text = report.text()
    assert "even; from 0 to 10" in report.constraints
    assert "[join] Join two." in report.documentation
    assert report.variables.startswith(f"(int) {x.py_name}=2")
    assert y.py_name in report.inputs
    assert "more)..." in report.inputs
    assert report.feedback == "poor\nScore: 0.5"
    assert [f"#{s}" in text for s in ("Code", "Others", "Outputs", "Feedback")] == [True] * 4
    masked = report.text(("code", "others", "documentation"))
    assert "#Code" not in masked
    assert "#Variables" in masked
    assert report.masked("code").code == ""


def test_optoprime_follows_a_script_with_memory():
    x = number(2, name="ox")
    llm = ScriptedLLM([suggest(x, 3), suggest(x, "4"), "TERMINATE"])
    opt = OptoPrime([x], llm, memory=10, mask=("documentation",))
    for feedback in ("too low", "still too low", "correct", "again"):
        opt.zero_feedback()
        opt.backward(x * 3, feedback)
        opt.step()
    assert (x.data, opt.status, opt.llm_calls) == (4, "terminated", 3)
    assert llm.asked[1][1]["content"].startswith("Tried before:")
    assert "#Documentation" not in llm.asked[0][1]["content"]
    assert opt.prompt_chars == sum(len(m["content"]) for asked in llm.asked for m in asked)
    assert opt.log[0]["suggestion"] == {x.name: 3}


def test_bad_answers_change_nothing_and_warn_or_raise():
    x = number(2, name="bx")
    opt = OptoPrime([x], ScriptedLLM(["what?", suggest(x, "many"), '{"suggestion": {"other": 1}}']))
    opt.backward(x + 1, "low")
    for words in ("no suggestion", "no number", "no variable"):
        with pytest.warns(RuntimeWarning, match=words):
            assert opt.step() == {}
    strict = OptoPrime([x], ScriptedLLM(["what?"]), strict=True)
    with pytest.raises(ValueError, match="no suggestion"):
        strict.step()
    assert x.data == 2


def test_a_model_that_fails_loses_nothing():
    x = number(2, name="fx")
    opt = OptoPrime([x], ScriptedLLM([LLMError("busy"), suggest(x, 3)]), memory=2)
    opt.backward(x + 1, "low")
    with pytest.raises(LLMError, match="busy"):
        opt.step()
    assert (x.data, opt.status) == (2, "running")
    assert opt.step() == {x.name: 3}


def test_code_needs_permission():
    @bundle(trainable=True)
    def double(x):
        return x + x + 1

    with pytest.raises(ValueError, match="allow_code=True"):
        OptoPrime([double.parameter], ScriptedLLM([]))
    better = "```python\ndef double(x):\n    return 2 * x\n```"
    opt = OptoPrime([double.parameter], ScriptedLLM([suggest(double.parameter, better)]), allow_code=True)
    opt.backward(double(2), "should be 4")
    opt.step()
    assert double(2).data == 4
    other = OptoPrime(
        [double.parameter], ScriptedLLM([suggest(double.parameter, "def treble(x): pass")]), allow_code=True
    )
    other.backward(double(2), "x")
    with pytest.warns(RuntimeWarning, match="begins with: def double"):
        other.step()


def test_several_candidates_and_a_selector():
    x = number(2, name="mx")
    answers = [suggest(x, v) for v in (5, 4, 4)]
    opt = OptoPrimeMulti(
        [x], ScriptedLLM(answers), selector=lambda found: max(range(len(found)), key=lambda i: found[i][x])
    )
    opt.backward(x + 1, "low")
    assert opt.step() == {x.name: 5}
    ended = OptoPrimeMulti([x], ScriptedLLM(["TERMINATE", "TERMINATE", suggest(x, 1)]))
    ended.backward(x + 1, "low")
    assert ended.step() == {}
    assert ended.status == "terminated"


def test_opro_sees_scores_and_textgrad_asks_for_each_edge():
    x, y = number(2, name="gx"), number(3, name="gy")
    llm = ScriptedLLM([suggest(x, 3), suggest(x, 4)])
    opt = OPRO([x], llm)
    for score in (0.9, 0.1):
        opt.zero_feedback()
        opt.backward(x * 3, score)
        opt.step()
    prompt = llm.asked[1][1]["content"]
    assert "#Code" not in prompt
    assert prompt.index("0.1") < prompt.index("0.9")
    replies = ScriptedLLM(["about the sum", "about x", "about y", suggest(x, 7), suggest(y, 8)])
    text = TextGrad([x, y], replies)
    text.zero_feedback()
    text.backward(x * y + 1, "bad")
    assert text.step() == {x.name: 7, y.name: 8}
    assert text.llm_calls == 5
    assert "about x" in replies.asked[3][1]["content"]


# Servers.


def client(url, **options):
    return OpenAICompatibleClient(
        url, "stub", "secret", **{"timeout": 0.2, "max_retries": 2, "backoff": 0.001, **options}
    )


ASK = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("bad", ["429", "503", "408", "cut", "nonsense", "empty", "silence"])
def test_passing_troubles_are_tried_again(bad):
    with misbehaving([bad, "fine"]) as url:
        assert client(url)(ASK) == "fine"


@pytest.mark.parametrize(
    ("bad", "words", "status", "attempts"),
    [
        ("429", "status 429", 429, 3),
        ("nonsense", "no JSON", 200, 3),
        ("empty", "empty answer", 200, 3),
        ("cut", "no reply", None, 3),
        ("401", "status 401", 401, 1),
        ("302", "status 302", 302, 1),
    ],
)
def test_lasting_troubles_are_clear_errors(bad, words, status, attempts):
    with misbehaving([bad]) as url, pytest.raises(LLMError, match=words) as caught:
        client(url, json_mode=True)(ASK)
    assert (caught.value.status, caught.value.attempts) == (status, attempts)
    assert "secret" not in str(caught.value)
    assert url in str(caught.value)
    assert "secret" not in repr(client(url))


def test_nobody_there_and_bad_addresses():
    with pytest.raises(LLMError, match="no reply"):
        client("http://127.0.0.1:9/v1", max_retries=0)(ASK)
    with pytest.raises(ValueError, match="http://"):
        client("file:///etc/passwd")
    with pytest.raises(TypeError, match="role and content"):
        client("http://localhost/v1")([{"role": "user"}])


def test_cassettes_keep_every_answer(tmp_path):
    path = tmp_path / "cassette.jsonl"
    first = RecordingLLM(ScriptedLLM(["one", LLMError("busy")]), path)
    assert first(ASK) == "one"
    with pytest.raises(LLMError):
        first(ASK)
    with path.open("a") as file:
        file.write('{"key": "cut o')  # a crash in the middle of a line
    second = RecordingLLM(ScriptedLLM(["two"]), path)
    assert [second(ASK), second(ASK)] == ["one", "two"]
    replay = ReplayLLM(path)
    assert [replay(ASK) for _ in range(3)] == ["one", "two", "two"]
    with pytest.raises(LLMError, match="no answer to 'other'"):
        replay([{"role": "user", "content": "other"}])
    with pytest.raises(LLMError, match="takes a text"):
        CallableLLM(lambda messages: None)(ASK)


# Optimisers that don't ask.


def test_words_lead_to_a_number_by_bisection_and_secant():
    for said in (lambda e: "higher" if e > 0 else "lower", lambda e: f"gradient: {-e}"):
        x = number(0.0, name="wx")
        opt = FiniteFeedbackOptimizer([x], patience=None)
        for count in range(60):  # noqa: B007
            error = 7.3 - x.data
            if abs(error) < 1e-6:
                break
            opt.zero_feedback()
            opt.backward(x * 1.0, said(error))
            opt.step()
        assert x.data == pytest.approx(7.3, abs=1e-5)
        assert count < 40
    k = number(3, name="whole", bounds=(0, 10))
    opt = FiniteFeedbackOptimizer([k])
    opt.backward(-k, "higher")  # the output falls with k: the trace says so
    opt.step()
    assert k.data < 3
    assert isinstance(k.data, int)
    opt.zero_feedback()
    opt.backward(-k, "correct")
    assert opt.step() == {}
    assert opt.status == "solved"
    with pytest.raises(TypeError, match="takes numbers"):
        FiniteFeedbackOptimizer([number("a")])


def test_the_inverse_meets_targets_and_bounds():
    x, y = number(1.0, name="ix"), number(2.0, name="iy")
    opt = SymbolicInverse([x, y])
    first, second = x * y, x + y
    opt.backward(first, "should be 6", retain_graph=True)
    opt.backward(second, "should be 5")
    opt.step()
    assert sorted([x.data, y.data]) == pytest.approx([2, 3], abs=1e-8)
    z = number(0.5, name="iz", bounds=(0, 1))
    opt = SymbolicInverse([z])
    opt.backward(z * 2.0, "should be 10")
    opt.step()
    assert z.data == 1.0
    opt.zero_feedback()
    opt.backward(z * 2.0, "should be 10")
    assert opt.step() == {}
    assert opt.status == "stalled"
    other = SymbolicInverse([number(1.0)])
    other.backward(other.parameters[0] * 2, "higher")
    with pytest.raises(ValueError, match="takes a target"):
        other.step()


def test_adam_is_that_of_torch():
    import torch

    x = number(3.0)
    tensor = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    opt, theirs = TraceAutodiff([x], 0.1, method="adam"), torch.optim.Adam([tensor], lr=0.1)
    for _ in range(20):
        opt.zero_feedback()
        opt.backward(x * x * x - 2.0 * x)
        opt.step()
        theirs.zero_grad()
        (tensor**3 - 2 * tensor).backward()
        theirs.step()
    assert x.data == pytest.approx(tensor.item(), rel=1e-12)
    with pytest.raises(ValueError, match="derivative by the output"):
        opt.backward(x * 1.0, "higher")


def test_search_repairs_code_from_its_error():
    @bundle(trainable=True, sandbox=Sandbox(steps=1000))
    def last(items):
        place = len(items)
        return items[place]

    opt = SearchOptimizer([last.parameter], goal=1.0, random_state=1)
    for _ in range(100):
        try:
            output = last([1, 2, 3])
            score = float(output.data == 3)
        except ExecutionError as error:
            output, score = error.node, None
        opt.zero_feedback()
        opt.backward(output, "failed" if score is None else score)
        opt.step()
        if opt.status != "running":
            break
    assert opt.status == "solved"
    assert last([4, 5]).data == 5


def test_search_keeps_to_the_trace_and_its_choices():
    x, word, unused = number(1.0, name="sx"), number("a", choices=["a", "b", "c"]), number(5)
    opt = SearchOptimizer([x, word, unused], random_state=0, patience=5)
    for _ in range(30):
        opt.zero_feedback()
        out = word * 1 + f"{x.data}"
        opt.backward(out, float(word.data == "c"))
        opt.step()
    assert opt.status == "stalled"
    opt.restore_best()
    assert (word.data, unused.data, x.data) == ("c", 5, 1.0)
    opt.status = "running"
    opt.zero_feedback()
    opt.backward(word * 1, "no score here")
    with pytest.raises(ValueError, match="takes a score"):
        opt.step()


def test_code_mutations_are_code_and_slices_are_right():
    source = "def f(x):\n    a = x + 1\n    b = 3\n    if x > 2:\n        return a[b - 1]\n    return -a"
    edits = code_mutations(source, np.random.default_rng(0))
    texts = [e.source for e in edits]
    assert len(set(texts)) == len(texts) > 30
    assert source not in texts
    for text in texts:
        compile(text, "f", "exec")
    assert {e.kind for e in edits} >= {"operator", "constant", "comparison", "name", "index", "statement"}
    assert lines_behind(source, 5) == {5: 0, 2: 1, 3: 1, 4: 1}


def test_bayes_finds_a_minimum_on_a_scale_of_logarithms():
    x = number(1.0, bounds=(1e-4, 1e4))
    opt = BayesOptimizer([x], objective="min", random_state=1)
    for _ in range(18):
        opt.zero_feedback()
        opt.backward(x * 1.0, (math.log10(x.data) - 2.3) ** 2)
        opt.step()
    opt.restore_best()
    assert math.log10(x.data) == pytest.approx(2.3, abs=0.1)
    with pytest.raises(ValueError, match="with bounds"):
        BayesOptimizer([number(1.0)])


# Loops.


def test_training_ends_resumes_and_gives_errors_back(tmp_path):
    x = number(1.0, name="tx")
    path = tmp_path / "checkpoint.json"
    llm = ScriptedLLM([suggest(x, 2.0), LLMError("busy"), suggest(x, 0.0), suggest(x, 3.0), "TERMINATE"])

    def guide(wanted, output):
        return -abs(output - wanted), "wrong" if output != wanted else "correct"

    opt = OptoPrime([x], llm)
    run = lambda o: train_workflow(lambda v: v / x, [(6.0, 2.0)], guide, o, epochs=9, checkpoint=path)  # noqa: E731
    with pytest.raises(LLMError):
        run(opt)
    assert x.data == 2.0
    x.data = 99.0  # another process would begin elsewhere
    fresh = OptoPrime([x], llm)
    result = run(fresh)
    assert result.scores == [-4.0, -1.0, None, 0.0]
    assert result.status == "terminated"
    assert (x.data, fresh.llm_calls) == (3.0, 5 - 1)
    assert "ZeroDivisionError" in llm.asked[3][1]["content"]
    with pytest.raises(ValueError, match="dataset is empty"):
        train_workflow(lambda v: v, [], guide, opt)


def test_batches_give_one_feedback_for_all():
    x = number(1.0, name="batch")
    llm = ScriptedLLM([suggest(x, 2.0)])
    result = train_workflow(
        lambda v: x * v, [(1.0, 2.0), (2.0, 4.0)], lambda w, o: (-abs(o - w), "low"), OptoPrime([x], llm), batch_size=2
    )
    assert result.scores == [-1.5]
    assert x.data == 2.0
    assert "Example 1: low" in llm.asked[0][1]["content"]


def test_the_same_feedback_again_and_again_stalls():
    x = number(1.0)
    opt = OptoPrime([x], CallableLLM(lambda messages: '{"suggestion": {}}'), patience=3)
    for _ in range(10):
        opt.zero_feedback()
        opt.backward(x * 1.0, "bad")
        opt.step()
    assert (opt.status, opt.llm_calls) == ("stalled", 4)
