"""Train a small model on a compressor for a moment, and use it on a recording and on a stream."""

import torch

from paperworks.audio import (
    Compressor4C,
    SignalTrain,
    StreamingProcessor,
    SynthAudioDataset,
    evaluate,
    fit,
    process_file,
)

torch.manual_seed(0)
compressor = Compressor4C(sr=11025)
model = SignalTrain(n_knobs=4, chunk=1024, ft=128, hop=48, trainable_frontend=False)
data = SynthAudioDataset(compressor, chunk=1024, out=256)
fit(model, data, steps=40, batch_size=16, lr=5e-3)

found = evaluate(model, SynthAudioDataset(compressor, chunk=1024, out=256, random_state=1))
print(f"mean absolute error {found.mae:.3f}; dry {found.dry_mae:.3f}, best constant gain {found.gain_mae:.3f}")

knobs = compressor.normalised([-20, 4, 0.005, 0.02])  # dB, ratio, seconds
stereo = torch.randn(2, 11025) / 4
whole = process_file(model, stereo, knobs)
stream = StreamingProcessor(model, knobs, block=256, channels=2)
blocks = torch.cat([stream.push(block) for block in stereo[:, :2560].split(256, dim=1)], dim=1)
print(f"a stream is {stream.latency} samples late and differs by {(blocks - whole[:, :2560]).abs().max():.0e}")
