"""Train a small network on a room for a moment, and ask it for a source and listeners that it has not seen."""

import numpy as np
import torch

from paperworks.audio import GaussianSource, Room, RoomFrame, fdtd, make_acoustic_deeponet, train_deeponet

torch.manual_seed(0)
frame = RoomFrame(Room.l_shape((2.0, 2.0), (1.0, 1.0)), time_scale=2.0)
sources = frame.room.random_points(24, margin=0.2)
field = fdtd(frame.room, GaussianSource(sources, frame.sigma), 0.005, h=0.1, save_every=2)
pressure = torch.as_tensor(field.pressure.transpose(0, 2, 1).reshape(24, -1), dtype=torch.float32)
model = make_acoustic_deeponet(frame, hidden=64, n_layers=2)
y = frame.coordinates(field.points, field.times)
losses = train_deeponet(model, frame.source_fields(sources), y, pressure, 200, lr=3e-3, clip=1.0)
print(f"error of the training {losses[-1] ** 0.5:.3f} Pa, at first {losses[0] ** 0.5:.3f} Pa")

stored = model.cache_receivers_at([[0.5, 1.5], [1.5, 0.5]], np.linspace(0, 0.005, 100))
print(f"two listeners, 100 times, {stored.nbytes} bytes: {tuple(stored.impulse_response([0.7, 0.6]).shape)}")
