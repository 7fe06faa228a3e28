"""Learn what a zone of a bar sees at its ends from 400 runs, and draw new histories to simulate the zone alone."""

import numpy as np
import skfem

from paperworks.reduction import WGANGP, Elastodynamics, Quantity, SubmodelUQ, extract_submodel
from paperworks.testbeds import struck_bar

runs = struck_bar(400, random_state=0)  # histories at both ends: (400, 1 component, 2 nodes, 100 times)
gan = WGANGP.on_modes(latent_dim=16).fit(runs.histories, steps=120, batch_size=64)  # take 5000 steps in earnest

whole = skfem.Basis(skfem.MeshLine(np.linspace(0, 1, 51)), skfem.ElementVector(skfem.ElementLineP1()))
zone = extract_submodel(whole, np.arange(30, 40))  # x from 0.6 to 0.8
model = zone.model(Elastodynamics(whole, lam=1.0, mu=0.0, rho=1.0))
uq = SubmodelUQ(zone, gan, {"middle": Quantity.displacement(5)}, model, dt=runs.times[0], times=runs.times)
result = uq.run(500)
value, low, high = result.quantile(0.95)["middle"]
print(f"peak in the middle: mean {result.mean['middle']:.2f} ± {result.standard_error()['middle']:.2f},")
print(f"95 % quantile {value:.2f} (from {low:.2f} to {high:.2f})")
