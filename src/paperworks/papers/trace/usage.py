"""A workflow whose parameters are moved to a target by the trace, and a function repaired from its error."""

from paperworks.optimization import ExecutionError, Sandbox, SearchOptimizer, SymbolicInverse, bundle, node

width = node(2.0, trainable=True, name="width")
height = node(3.0, trainable=True, name="height")
optimizer = SymbolicInverse([width, height])
for run in range(2):
    area = width * height + width * width
    print(f"run {run + 1}: width {width.data:.3f}, height {height.data:.3f}, output {area.data:.3f}")
    optimizer.zero_feedback()
    optimizer.backward(area, "The output should be 20.")
    optimizer.step()


@bundle(trainable=True, sandbox=Sandbox(steps=1000))
def total(values: list[int]) -> int:
    """Add the values up."""
    result = 0
    for i in range(len(values)):
        result = result + values[i + 1]
    return result


search = SearchOptimizer([total.parameter], goal=1.0)
while search.status == "running":
    try:
        output = total([1, 2, 3])
        feedback = float(output.data == 6)
    except ExecutionError as error:
        output, feedback = error.node, -1.0
    search.zero_feedback()
    search.backward(output, feedback)
    search.step()
print(f"\nrepaired ({search.status}):\n{total.source}")
