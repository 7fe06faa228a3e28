"""Fit a network into a hundredth of its weights from the first step of training, and give it back dense."""

import torch
from torch.nn.functional import cross_entropy

from paperworks.numerics import mlp, seeded, train
from paperworks.testbeds import digits
from paperworks.training import compress_model, compression_report, decompress_model

data = digits()
x, y = data[:].flatten(1), data.labels
with seeded(0):
    model = compress_model(mlp([64, 256, 256, 10]), 100)  # then the optimiser, any one
report = compression_report(model)
print(f"{report.weights} weights from {report.stored} numbers; {report.compression:.1f}x with biases")

optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
train(lambda step: cross_entropy(model(x[:1300]), y[:1300]), optimizer, 60)
accuracy = (model(x[1300:]).argmax(1) == y[1300:]).float().mean()
dense = decompress_model(model)  # ordinary layers, for any tool
same = torch.equal(dense(x), model(x))
print(f"accuracy {accuracy:.2f}; dense copy computes the same: {same}")
