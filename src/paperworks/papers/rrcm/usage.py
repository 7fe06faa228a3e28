"""Classify digits under noise: pretrain without labels, fine-tune with a hundred of them, and certify what is right."""

import torch

from paperworks.robustness import (
    RRCMClassifier,
    RRCMConvNet,
    RRCMLoss,
    ScaleSchedule,
    Smooth,
    certified_accuracy_curve,
    finetune_step,
    layerwise_groups,
    pretrain_encoder,
)
from paperworks.testbeds import digits

torch.manual_seed(0)
images, labels = digits()[:], digits().labels
loss = RRCMLoss(ScaleSchedule(total=40))
encoder = RRCMConvNet(image_size=8, patch_size=2)
encoder = pretrain_encoder(encoder, images[:1500], loss, batch_size=64, lr=3e-3, warmup=5, decay=0.98)

classifier = RRCMClassifier(encoder, num_classes=10, sigma=0.25)
optimizer = torch.optim.AdamW(layerwise_groups(classifier, lr=3e-3))
for _ in range(60):
    finetune_step(classifier, optimizer, images[:100], labels[:100], lam=10.0)

smooth = Smooth(classifier.eval(), num_classes=10, sigma=0.25, input_range=(-1, 1))
result = smooth.certify_batch(images[1500:1550], n=1000)
for radius in (0.0, 0.25, 0.5):
    (share,) = certified_accuracy_curve(result, labels[1500:1550], [radius])
    print(f"certified at radius {radius}: {share:.0%}")
