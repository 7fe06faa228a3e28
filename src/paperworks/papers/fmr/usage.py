"""Score a classifier on images that are made to hurt it, for as long as other networks still see their labels."""

from paperworks.robustness import FMREvaluator, LinearGenerator, Oracle, OracleConstrainedPerturber
from paperworks.testbeds import digits, trained_classifier

images, labels = digits()[1500:], digits().labels[1500:]
model, *judges = (trained_classifier("digits", random_state=seed) for seed in range(3))  # of images from -1 to 1

generator = LinearGenerator.pca(digits()[:1500], components=20)
perturber = OracleConstrainedPerturber(generator, Oracle(judges), step_size=0.2, budget=15, clip_range=(-1, 1))
report = FMREvaluator(perturber).evaluate(model, (images, labels))
print(f"right on {report.SA:.1%} of the digits and on {report.PA:.1%} of those made for it: FMR {report.FMR:.2f}")
print(f"the judges see the labels of {report.VR:.1%}, and lost {report.violations} of them on the way")
