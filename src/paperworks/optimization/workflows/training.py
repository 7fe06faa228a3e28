"""The loop over examples: run, ask a guide, send feedback back, step; with a file from which it goes on."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paperworks.core.validation import check_count
from paperworks.optimization.workflows.errors import ExecutionError
from paperworks.optimization.workflows.feedback import Feedback, read_feedback
from paperworks.optimization.workflows.modules import read_json, write_json
from paperworks.optimization.workflows.nodes import Node, Operator, apply, unwrap, wrap
from paperworks.optimization.workflows.optimizer import RUNNING, WorkflowOptimizer

BATCH = Operator("batchify", lambda *values: list(values), (), "Collect the outputs of several examples.")


def batchify(*outputs: Any) -> Node:
    """Collect several outputs in one node, on which feedback is given for all of them together.

    Parameters
    ----------
    outputs
        Nodes or values.

    Returns
    -------
    Node
        Node of the list of their values.

    Raises
    ------
    ValueError
        Where there are none.

    Examples
    --------
    >>> from paperworks.optimization import batchify, node
    >>> batchify(node(1) + 1, node(5)).data
    [2, 5]
    """
    if not outputs:
        raise ValueError("outputs is empty; it takes one or more")
    op = Operator("batchify", BATCH.function, tuple(f"x{i}" for i in range(len(outputs))), BATCH._description)
    return apply(op, tuple([wrap(o) for o in outputs]))


class TrainingResult(NamedTuple):
    """What a training loop came to.

    Parameters
    ----------
    scores
        Mean score of each step, None where the guide gave none.
    steps
        How many steps were taken, those before a resumption included.
    status
        Status of the optimiser at the end.
    """

    scores: list[float | None]
    steps: int
    status: str


Guide = Callable[[Any, Any], Any]
"""From an example and the raw output to feedback: a score and a text, or either."""


def train_workflow(
    workflow: Callable[..., Any],
    dataset: Sequence[Any],
    guide: Guide,
    optimizer: WorkflowOptimizer,
    *,
    epochs: int = 1,
    batch_size: int = 1,
    callback: Callable[[int, float | None], Any] | None = None,
    progress: Callable[[range], Iterable[int]] | None = None,
    checkpoint: str | Path | None = None,
    allow_code: bool = False,
) -> TrainingResult:
    """Run a workflow over examples, and let an optimiser change it by what a guide says.

    An error in the workflow is feedback like any other: it goes back from where it happened. The loop ends when the
    optimiser's status says so. With a checkpoint all is written after every step, whole or not at all: where a step
    fails (a language model that doesn't answer), its error is raised, and the same call goes on from there.

    Parameters
    ----------
    workflow
        Called with the input of each example.
    dataset
        Examples, each an input, or a pair of an input and what the guide is to know.
    guide
        Takes the second part of an example (the input where it is no pair) and the raw output, and returns a score and
        a text, or either. For an error it isn't asked; the score is then none.
    optimizer
        Optimiser of the workflow's parameters.
    epochs
        How often the dataset is gone through.
    batch_size
        Examples in each step.
    callback
        Called after each step with its number and its mean score.
    progress
        What wraps the range of steps.
    checkpoint
        File to write after each step, and to go on from where it exists.
    allow_code
        Whether the checkpoint may change the source of trainable functions.

    Returns
    -------
    TrainingResult
        Scores of the steps, their number and the status.

    Raises
    ------
    ValueError
        Where the dataset is empty, or the checkpoint is broken or of something else.

    Examples
    --------
    >>> from paperworks.optimization import SymbolicInverse, node, train_workflow
    >>> x = node(1.0, trainable=True, name="x")
    >>> guide = lambda target, output: (-abs(output - target), f"The output should be {target}.")
    >>> result = train_workflow(lambda _: x * 3.0, [(None, 12.0)], guide, SymbolicInverse([x]), epochs=3)
    >>> round(x.data, 9), result.scores[0]
    (4.0, -9.0)
    """
    examples = list(dataset)
    if not examples:
        raise ValueError("dataset is empty; it takes one or more examples")
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    per_epoch = -(-len(examples) // batch_size)
    scores: list[float | None] = []
    if checkpoint is not None and Path(checkpoint).exists():
        state = read_json(checkpoint)
        if state.keys() != {"scores", "optimizer"} or not isinstance(state["scores"], list):
            raise ValueError(f"checkpoint {checkpoint} is not of a training of workflows: it has {sorted(state)[:5]}")
        optimizer.load_state_dict(state["optimizer"], allow_code=allow_code)
        scores = list(state["scores"])
    steps = range(len(scores), epochs * per_epoch)
    for number in progress(steps) if progress else steps:
        if optimizer.status != RUNNING:
            break
        start = number % per_epoch * batch_size
        score = _step(workflow, examples[start : start + batch_size], guide, optimizer)
        scores.append(score)
        if checkpoint is not None:
            write_json(checkpoint, {"scores": scores, "optimizer": optimizer.state_dict()})
        if callback is not None:
            callback(number, score)
    return TrainingResult(scores, len(scores), optimizer.status)


def _step(workflow: Callable[..., Any], batch: list[Any], guide: Guide, optimizer: WorkflowOptimizer) -> float | None:
    outputs: list[Node] = []
    spoken: list[Feedback] = []
    failed: tuple[Node, str] | None = None
    for example in batch:
        given, known = example if isinstance(example, tuple) and len(example) == 2 else (example, example)
        try:
            output = wrap(workflow(given))
        except ExecutionError as error:
            failed = (error.node, str(error))
            break
        outputs.append(output)
        spoken.append(read_feedback(guide(known, unwrap(output))))
    optimizer.zero_feedback()
    if failed is not None:
        optimizer.backward(*failed)
        score = None
    else:
        known_scores = [s.score for s in spoken if s.score is not None]
        score = sum(known_scores) / len(known_scores) if len(known_scores) == len(spoken) else None
        if len(outputs) == 1:
            one = spoken[0]
            optimizer.backward(outputs[0], one.score if one.text == "" and one.score is not None else tuple(one))
        else:
            text = "\n".join(f"Example {i}: {s}" for i, s in enumerate(spoken))
            optimizer.backward(batchify(*outputs), (score, text))
    optimizer.step()
    return score
