"""Predict a target where the mechanism of one of its effects changes between hospitals, and be ready for the worst."""

import numpy as np

from paperworks.inference import CausalGraph, MinimaxInvariantRegressor, stable_equivalence_classes

graph = CausalGraph.from_edges(
    [
        ("age", "illness"),
        ("illness", "treatment"),
        ("hospital", "treatment"),  # each hospital treats in its own way
        ("illness", "blood value"),
        ("treatment", "blood value"),
        ("blood value", "score"),
    ]
)
rng = np.random.default_rng(0)


def patients(policy: float, n: int = 500) -> dict[str, np.ndarray]:
    """Draw patients of a hospital."""
    age = rng.normal(size=n)
    illness = age + rng.normal(size=n)
    treatment = policy * illness + rng.normal(size=n)
    blood = illness - treatment + rng.normal(size=n)
    return {
        "age": age, "illness": illness, "treatment": treatment, "blood value": blood,
        "score": blood + rng.normal(size=n),
    }  # fmt: skip


stable = ["age", "blood value", "score"]
classes = list(stable_equivalence_classes(graph, "illness", stable))
print(f"{len(classes)} classes cover {sum(one.size for one in classes)} subsets of {stable}")

hospitals = [patients(policy) for policy in (0.5, 1.0, 1.5)]
train = {name: np.concatenate([hospital[name] for hospital in hospitals]) for name in hospitals[0]}
model = MinimaxInvariantRegressor(graph, target="illness", env="hospital").fit(train, train["illness"])
for subset, risk in model.risks_:
    print(f"worst case {risk:.2f} with {', '.join(map(str, subset)) or 'no stable variable'}")

new = patients(policy=-1.0)
print(f"error in a hospital that treats the other way: {np.mean((new['illness'] - model.predict(new)) ** 2):.2f}")
