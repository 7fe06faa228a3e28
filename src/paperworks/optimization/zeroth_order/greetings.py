"""What machines tell each other of themselves before they train together."""

import json
from typing import Any

from paperworks.optimization.zeroth_order.wire import HELLO, Address, Garbage

PROTOCOL = "one-byte 1"


def greeting(optimiser: Any, address: Address, ready: bool, others: list[Address]) -> dict[str, Any]:
    """Return what a machine says of itself, as JSON holds it."""
    recipe = optimiser.recipe.to_json()
    factors = recipe.pop("factors")  # the log brings them
    return {
        "protocol": PROTOCOL,
        "machine": optimiser.machine_id,
        "address": list(address),
        "recipe": {**recipe, "variance_scaling": bool(factors)},
        "parameters": [[list(p.shape), str(p.dtype)] for p in optimiser.tensors],
        "names": [n for group in optimiser.param_groups for n in group.get("param_names", [])],
        "groups": [len(group["params"]) for group in optimiser.param_groups],
        "ready": ready,
        "others": [list(other) for other in others],
    }


def misfit(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Say why two machines can't train together, None where they can."""
    for key in ("protocol", "recipe", "parameters", "groups", "names"):
        if ours[key] == theirs[key]:
            continue
        if key == "recipe":
            part = next((k for k in ours[key] if ours[key][k] != theirs[key].get(k)), None)
            if part is None:
                return f"recipe has {sorted(set(theirs[key]) - set(ours[key]))}, which this run doesn't know"
            return f"{part} is {theirs[key].get(part)!r}; this run takes {ours[key][part]!r}"
        at = next((i for i, (a, b) in enumerate(zip(theirs[key], ours[key], strict=False)) if a != b), None)
        if at is None or key == "protocol":
            return f"{key}: {len(theirs[key])} of another kind or number; this run takes {len(ours[key])}"
        return f"{key} differ: number {at} is {theirs[key][at]}; this run takes {ours[key][at]}"
    return None


def parsed(kind: int, content: bytes) -> dict[str, Any]:
    """Return a greeting whose parts are of the types that they should be."""
    if kind != HELLO:
        raise Garbage(f"a frame of kind {kind} for a greeting")
    try:
        found = json.loads(content)
    except RecursionError:
        raise Garbage("a greeting of endless depth") from None
    kinds = {"protocol": str, "machine": int, "address": list, "recipe": dict, "parameters": list, "names": list,
             "groups": list, "ready": bool, "others": list}  # fmt: skip
    if not isinstance(found, dict) or any(not isinstance(found.get(k), kind) for k, kind in kinds.items()):
        raise Garbage("a greeting without its parts")
    for address in (found["address"], *found["others"]):
        if not isinstance(address, list) or [type(a) for a in address] != [str, int] or not 0 < address[1] < 2**16:
            raise Garbage(f"an address that is {address!r}")
    if not 0 <= found["machine"] < 2**16:
        raise Garbage(f"a machine_id of {found['machine']}")
    return found
