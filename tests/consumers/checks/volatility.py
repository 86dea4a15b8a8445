# SPDX-License-Identifier: GPL-2.0
"""Volatility 3: VMCOREINFO, processes, the log, and the secret by yara.

It has no page tables of five levels. With symbols of such a guest it takes its memory for one of
four, and shows empty tables. So it is only asked for VMCOREINFO then, without symbols.
"""

import json
import os
import sys

from .case import Failed, demand, run


def check(case):
    keys = {row["Key"]: row["Value"] for row in plugin(case, "linux.vmcoreinfo.VMCoreInfo")}
    demand(keys.get("OSRELEASE") == case.expected["release"], "VMCOREINFO is not found")
    if case.expected["levels"] == 5:
        return "VMCOREINFO; it cannot do more with 5 levels"
    rows = plugin(case, "linux.pslist.PsList")
    case.demand_tasks((row["PID"], row["COMM"]) for row in rows)
    lines = [row["line"] for row in plugin(case, "linux.kmsg.Kmsg")]
    demand(any(case.mark in line for line in lines), f"the log lacks '{case.mark}'")
    rule = "{" + case.secret.hex() + "}"
    demand(plugin(case, "yarascan.YaraScan", "--yara-string", rule), "yarascan finds no secret")
    hits = plugin(case, "linux.vmayarascan.VmaYaraScan", "--yara-string", rule)
    demand({row["PID"] for row in hits} == {case.expected["secret"]["pid"]},
           "the secret is not in the memory of its process alone")
    return f"{len(rows)} processes"


def plugin(case, name, *options, file=None):
    vol = os.path.join(os.path.dirname(sys.executable), "vol")
    levels = case.expected["levels"]
    file = file or case.core
    # It remembers symbols, and would use those of before.
    cache = case.path(f"volatility-{levels}-{os.path.basename(file)}")
    none = case.path("no-symbols")
    for folder in (cache, none):
        os.makedirs(folder, exist_ok=True)
    symbols = case.symbols if levels == 4 else none
    text = run(vol, "--quiet", "--offline", "--symbol-dirs", symbols, "--cache-path", cache,
               "--renderer", "json", "--file", file, name, *options)
    # Before it are words about itself.
    begin = text.find("\n[")
    try:
        return json.JSONDecoder().raw_decode(text[begin + 1 :])[0]
    except ValueError as error:
        raise Failed(f"{name} gives no result: {text.strip().splitlines()[-1]}") from error
