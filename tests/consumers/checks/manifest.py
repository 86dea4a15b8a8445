# SPDX-License-Identifier: GPL-2.0
"""Compares the manifest beside a core file with the file, and with what the guest has said."""

import hashlib
import json

from .case import demand
from .core import PAGE, Core


def check(case):
    core = Core(case.core)
    with open(case.core + ".json", encoding="utf-8") as file:
        manifest = json.load(file)
    entry, memory = manifest["file"], manifest["memory"]
    demand(entry["size"] == len(core.data), f"its size is {len(core.data)}")
    demand(entry["sha256"] == hashlib.sha256(core.data).hexdigest(), "its digest is another one")
    # Pages that were copied while the guest ran are late, all of them.
    live = manifest["consistency"]["mode"] == "live"
    demand(memory["complete"] != live, "something is missing")
    ranges = [(one["gpa"], one["size"], one["offset"]) for one in memory["ranges"]]
    demand(ranges == [(load.gpa, load.size, load.offset) for load in core.loads],
           f"the ranges are {ranges}")
    pages = sum(size for _, size, _ in ranges) // PAGE
    demand(sum(memory["pages"].values()) == pages, f"there are {pages} pages")
    absent = [run for run in memory["runs"] if run["kind"] != "late"]
    for run in absent:
        offset = core.offset_of(run["gpa"])
        demand(not core.data[offset : offset + run["size"]].strip(b"\0"),
               f"pages that are {run['kind']} are no zeros at {run['gpa']:#x}")
    cpus = [vcpu["cpu"] for vcpu in manifest["vcpus"]]
    demand(cpus == list(range(case.expected["cpus"])), f"the CPUs are {cpus}")
    demand(all(vcpu["registers"] and not vcpu["cpu_assumed"] for vcpu in manifest["vcpus"]),
           "not all is known of each CPU")
    proofs = manifest["vmcoreinfo"]["proofs"]
    demand("kallsyms" in proofs, f"VMCOREINFO has the proofs {proofs}")
    demand(len(manifest["warnings"]) == int(live), f"it warns: {manifest['warnings']}")
    return f"{pages} pages, {len(absent)} runs without"
