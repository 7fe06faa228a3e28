"""How long does a process stay above its mean? The approximate law, whether it may be used, and a simulation."""

import torch

from paperworks.dynamics import CallableCovariance, Matern, SlepianIIA, persistence_probability, simulate_excursions

sea = Matern(nu=2.5, length=3.0)  # correlations of wave heights, in hours
law = SlepianIIA(sea)
exponent = law.persistency_exponent()
print(f"validity: {law.validity().status}")
print(f"mean {law.mean():.2f} h; longer than 12 h with probability {law.sf(12.0):.3f}")
print(f"long ones: {exponent.constant:.3f} exp(-{exponent.theta:.4f} t)")

simulated = simulate_excursions(sea, n=20_000, dt=0.1, t_max=40.0, random_state=0)
print(f"simulated: longer than 12 h with probability {(simulated > 12).mean():.3f}")
exact = persistence_probability(sea, t=12.0, n_grid=40, n_qmc=2**13, seen_from="up-crossing", random_state=0)
print(f"on a grid: {exact.probability[-1]:.3f} +- {exact.standard_error[-1]:.3f}")
print(f"five draws: {law.rvs(5, random_state=0).round(1)} h")

swell = SlepianIIA(CallableCovariance(lambda t: torch.sinc(t / torch.pi)))
report = swell.validity()
print(f"sin(t) / t: {report.status}, the survival function rises at {report.rises_at:.2f}")
