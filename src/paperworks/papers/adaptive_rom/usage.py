"""A plate that creeps: a reduced model of two temperature fields, which notices a third and mends itself."""

import numpy as np

from paperworks.reduction import AdaptiveROM, GappyErrorIndicator, HyperReducedModel, calibration_pairs
from paperworks.testbeds import heated_plate, hot_spot, plate_with_hole

mesh, times = plate_with_hole(4), np.linspace(0, 2, 11)
problem, other, new = (
    heated_plate(mesh, hot_spot(mesh.p, kelvin, place, width=2.0))[0]
    for kelvin, place in ((100.0, (4.0, 0.0)), (300.0, (7.0, 7.0)), (600.0, (3.0, 9.0)))
)
training = [problem.solve(times), problem.with_loads(other.loads).solve(times)]
rom = HyperReducedModel(problem).fit(training)
print(f"{len(rom.modes_)} modes, {len(rom.points_)} of {problem.elements.n_points} integration points")

indicator = GappyErrorIndicator().calibrate(*calibration_pairs(rom, training))
adaptive = AdaptiveROM(rom, problem.with_loads(new.loads), indicator, rtol=0.05).solve(times)
plain = rom.reconstruct(rom.solve(new.loads, times))
truth = problem.with_loads(new.loads).solve(times)
for name, found in (("plain", plain), ("adaptive", adaptive.trajectory)):
    error = problem.norm(found.p - truth.p).max() / problem.norm(truth.p).max()
    print(f"{name}: error of the plastic strain {100 * error:.1f} %")
print(f"full steps: {adaptive.n_hf_steps} of {len(times) - 1}, at {times[list(adaptive.enrichments)]} s")
