"""Two machines train one classifier; each sees its own half of the data and sends one byte a sample."""

import threading

import torch

from paperworks.optimization import LocalTransport, OneByteSPSA
from paperworks.testbeds import digits

images, labels = digits()[:].flatten(1), digits().labels
models = [torch.nn.Linear(64, 10) for _ in range(2)]
models[1].load_state_dict(models[0].state_dict())


def train(machine: int, transport: LocalTransport) -> None:
    model, x, y = models[machine], images[machine::2], labels[machine::2]
    optimiser = OneByteSPSA(model.parameters(), lr=0.01, samples=4, transport=transport, machine_id=machine)
    for _ in range(100):
        optimiser.step(lambda k: torch.nn.functional.cross_entropy(model(x[k::4]), y[k::4]))
    sent = sum(len(data) for found in optimiser.log.rounds for _, _, data in found.messages)
    print(f"Machine {machine}: {sent} bytes were sent, hash of all rounds {optimiser.digest.hex()}.")


machines = [threading.Thread(target=train, args=pair) for pair in enumerate(LocalTransport.group(2))]
for machine in machines:
    machine.start()
for machine in machines:
    machine.join()
accuracy = float((models[0](images).argmax(1) == labels).double().mean())
print(f"Same weights: {torch.equal(models[0].weight, models[1].weight)}; accuracy {accuracy:.0%}.")
