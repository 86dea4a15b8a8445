# SPDX-License-Identifier: GPL-2.0
"""yara: the secret is in the file."""

import re

from .case import demand, run
from .core import Core


def check(case):
    rule = case.path("secret.yar")
    with open(rule, "w", encoding="utf-8") as file:
        file.write("rule secret { strings: $a = { %s } condition: $a }\n" % case.secret.hex())
    text = run("yara", "--print-strings", rule, case.core)
    offsets = {int(offset, 16) for offset in re.findall(r"^0x([0-9a-f]+):\$a", text, re.M)}
    core = Core(case.core)
    places = {core.offset_of(gpa) for gpa in core.places(case.secret)}
    demand(offsets, "yara does not find the secret")
    demand(offsets == places, f"yara finds the secret at {sorted(offsets)}")
    return f"found {len(offsets)} times"
