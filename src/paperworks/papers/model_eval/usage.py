"""Put an honest interval on an accuracy, and an honest p-value on a comparison."""

from sklearn.datasets import load_breast_cancer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

from paperworks.inference import bootstrap_score, compare_algorithms

X, y = load_breast_cancer(return_X_y=True)
found = bootstrap_score(LinearDiscriminantAnalysis(), X, y, method=".632+", random_state=0)
print(f"accuracy {found.score:.3f}, 95 % interval [{found.interval.low:.3f}, {found.interval.high:.3f}]")
algorithms = {"LDA": LinearDiscriminantAnalysis(), "naive Bayes": GaussianNB()}
print(compare_algorithms(algorithms, X, y, test="5x2cv-f", random_state=0))
