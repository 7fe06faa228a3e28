"""A language model that is to tell positive words from negative ones, and the memory that its training takes."""

import ctypes
import gc
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from paperworks.optimization import OneByteSPSA
from paperworks.testbeds import minilm, minilm_tokens, sentiment_words

LABELS = ["bad", "good"]  # the plainest pair, fixed before any word was looked at
LAYER = 4  # the first of MiniLM's layers that is trained


class SentimentTask:
    """MiniLM tells positive words from negative ones by which of two phrases they are more similar to."""

    def __init__(self, seed: int, validation: int, training: int = 10**9, layer: int = LAYER) -> None:
        words, positive = sentiment_words()
        order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))
        order = order[[words[i] not in LABELS for i in order]]
        chosen = order[: validation + min(training, len(order) - validation)]
        ids, self.mask = minilm_tokens([words[i] for i in chosen] + LABELS)
        self.model, self.layer, self.validation = minilm(), layer, validation
        self.labels = positive[chosen]
        with torch.no_grad():
            # What is below the trained layers never changes.
            blocks = [self.model.lower(i, m, layer) for i, m in zip(ids.split(256), self.mask.split(256), strict=True)]
        self.below = torch.cat(blocks)
        self.params = [p for block in self.model.layers[layer:] for p in block.parameters()]

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits of some words."""
        rows = torch.cat([rows, torch.tensor([len(self.labels), len(self.labels) + 1])])
        found = self.model.upper(self.below[rows], self.mask[rows], self.layer)
        return 20 * found[:-2] @ found[-2:].T

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of some words."""
        return functional.cross_entropy(self.logits(rows), self.labels[rows])

    def validate(self) -> tuple[float, float]:
        """Return loss and accuracy on the validation words."""
        with torch.no_grad():
            logits = torch.cat([self.logits(rows) for rows in torch.arange(self.validation).split(256)])
        labels = self.labels[: self.validation]
        return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).double().mean())

    def batch(self, seed: int, t: int, machine: int, size: int = 32) -> torch.Tensor:
        """Return the training words of a machine in a round."""
        rng = np.random.default_rng([seed, t, machine])
        return torch.from_numpy(rng.integers(self.validation, len(self.labels), size=size))


def peak_memory(kind: str, pipe: Connection) -> None:
    """Send the memory that a forward pass, a step of ours or one of back-propagation takes beyond the loaded model."""
    torch.set_num_threads(1)
    model = minilm()
    ids, mask = minilm_tokens(["good", "unpleasantness"] * 17)
    params = [p for block in model.layers[LAYER:] for p in block.parameters()]
    model.requires_grad_(kind == "back-propagation")
    # Rounds are restored every second time, not every 16th, lest three steps leave out what that takes.
    ways: dict[str, dict[str, Any]] = {
        "one byte": {"restore_every": 2}, "one byte, copies for each call": {"exact": True},
        "one byte, copy of the weights": {},
    }  # fmt: skip
    optimiser = OneByteSPSA(params, lr=1e-4, **ways[kind]) if kind in ways else None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading has freed is given back, and not taken anew unseen
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(3):
        if optimiser is not None:
            optimiser.step(lambda: model(ids, mask).sum())
        elif kind == "inference":
            with torch.no_grad():
                model(ids, mask).sum()
        else:
            model(ids, mask).sum().backward()
    pipe.send((status("VmHWM") - before) / 1024)


def status(name: str) -> float:
    """Return an entry of what Linux says of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1])


def memory_of(kind: str, context: Any) -> float:
    """Return the MiB of `peak_memory` in a process of its own."""
    ours, theirs = context.Pipe()
    process = context.Process(target=peak_memory, args=(kind, theirs), daemon=True)
    process.start()
    theirs.close()  # lest this end outlives the process
    try:
        if not ours.poll(120):
            raise TimeoutError("a process that measures memory did not answer within 120 s")
        return float(ours.recv())
    finally:
        process.kill()
        process.join(10)
