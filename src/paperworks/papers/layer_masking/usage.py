"""See which predictions survive when half of an image is hidden: from the network itself, or under paint."""

import torch

from paperworks.robustness import LayerMaskedModel, grid_segments, keep_segments, paint
from paperworks.testbeds import imagenet_classifier, photographs, random_crops

network = imagenet_classifier("lite0")
generator = torch.Generator().manual_seed(0)
images = random_crops(photographs().values(), 1, network.side, generator)
squares = grid_segments(network.side, network.side, side=16).expand(len(images), -1, -1)
mask = keep_segments(squares, torch.rand(len(images), 196, generator=generator) < 0.5)  # True is kept

with torch.no_grad():
    whole, masked, grey = network(images), LayerMaskedModel(network)(images, mask), network(paint(images, mask, "grey"))
for name, logits in (("layer masking", masked), ("grey paint", grey)):
    print(f"{name}: {(logits.argmax(1) == whole.argmax(1)).sum()} of {len(images)} predictions stay")
