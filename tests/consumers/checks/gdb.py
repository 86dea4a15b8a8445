# SPDX-License-Identifier: GPL-2.0
"""gdb: a thread for each CPU, with its stack, and variables as they are in memory."""

import re

from .case import IDLE, demand, is_in, run
from .core import Core


def check(case):
    offset = Core(case.core).vmcoreinfo().get("KERNELOFFSET")
    demand(offset, "there is no KERNELOFFSET in VMCOREINFO")
    threads(case, case.core, offset)
    demand(case.gdb_core, "there is no --gdb-core for stacks")
    text = threads(case, case.gdb_core, offset, "print init_task.comm")
    # gdb reads the file of the kernel where a core has nothing. There it is "swapper".
    demand('"swapper/0"' in text.replace("\\000", ""), "init_task.comm is not swapper/0")
    stacks = re.split(r"^Thread \d+ \(LWP ", text, flags=re.M)[1:]
    stacks = {int(stack.split(")")[0]) - 1: stack for stack in stacks}
    for task in case.expected["running"]:
        stack = stacks[task["cpu"]]
        if task["function"]:
            demand(is_in(stack, f"{task['function']} ("),
                   f"{task['comm']} is not in {task['function']}: {summary(stack)}")
    for cpu in case.idle_cpus():
        demand(is_in(stacks[cpu], *IDLE), f"CPU {cpu} is not idle: {summary(stacks[cpu])}")
    return f"{len(stacks)} threads"


def threads(case, core, offset, *more):
    commands = [f"core-file {core}", f"symbol-file -o 0x{offset} {case.vmlinux}", "info threads",
                "thread apply all backtrace 30", *more]
    options = [word for command in commands for word in ("-ex", command)]
    text = run("gdb", "-nx", "-batch", "-ex", "set pagination off", *options)
    count = len(re.findall(r"^[* ] +\d+ +LWP \d+ ", text, re.M))
    demand(count == case.expected["cpus"], f"gdb has {count} threads")
    return text


def summary(stack):
    return " ".join(re.findall(r"^#\d+ +(?:0x\S+ in )?(\S+) \(", stack, re.M)[:6]) or "no stack"
