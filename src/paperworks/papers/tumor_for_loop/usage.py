"""Simulate a small database in a brain atlas, and look up a tumour whose parameters are known."""

from paperworks.reduction import FisherKolmogorov, TumorDatabase, TumorQuery, brain_atlas

atlas = brain_atlas(10)
brain = FisherKolmogorov(atlas.wm, atlas.gm, atlas.spacing_mm)
database = TumorDatabase.generate(brain, 60, random_state=0)
query = TumorQuery(database).fit()

c = brain.solve(Dw=0.002, rho=0.02, T=400, x0=(0.35, 0.5, 0.55))  # the patient; or atlas.read_mask("flair.nii.gz")
found = query.query(flair=c >= 0.2 * c.max(), t1gd=c >= 0.6 * c.max())
print(
    f"{found.seconds * 1e3:.2f} ms, {found.scored} of {len(database)} entries scored; best score {found.scores[0]:.2f}"
)
for name, (value, spread) in found.estimate().items():
    print(f"{name:5} {value:7.3f}  spread {spread:.2f} over the best 15")
print("truth  Dw_T 0.8, rho_T 8, x 0.35, y 0.5, z 0.55")
