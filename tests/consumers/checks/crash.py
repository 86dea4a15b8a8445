# SPDX-License-Identifier: GPL-2.0
"""crash: tasks, the log, and the stacks of all CPUs."""

import re

from .case import IDLE, demand, is_in, run

# crash 8.0.6 is older than the kernel, and does not know some structures of it.
OPTIONS = ["--no_scroll", "-s", "--no_kmem_cache", "--no_modules"]


def check(case):
    script = case.path("crash.commands")
    with open(script, "w", encoding="utf-8") as file:
        file.write("sys\nps\nlog\nbt -a\nquit\n")
    text = run("crash", *OPTIONS, "-i", script, case.vmlinux, case.core, cwd=case.work)
    demand(re.search(rf"CPUS: {case.expected['cpus']}$", text, re.M), "the CPUs are not there")
    demand(case.expected["release"] in text, "the release is not there")
    # PID, PPID, CPU, TASK, state, three of memory, COMM
    lines = re.findall(r"^>? +(\d+) +\d+ +\d+ +[0-9a-f]{16} +\S+ +\S+ +\d+ +\d+ +(.+)$", text, re.M)
    case.demand_tasks((int(pid), name.strip().strip("[]")) for pid, name in lines)
    demand(case.mark in text, f"the log lacks '{case.mark}'")
    stacks = re.split(r'^PID: ', text, flags=re.M)[1:]
    found = {}
    for stack in stacks:
        head = re.match(r'(\d+) +TASK: \S+ +CPU: (\d+) +COMMAND: "(.*)"', stack)
        found[int(head[2])] = (int(head[1]), head[3], stack)
    for task in case.expected["running"]:
        pid, name, stack = found[task["cpu"]]
        demand(pid == task["pid"], f"CPU {task['cpu']} runs {name}, not {task['comm']}")
        if task["function"]:
            # Without the right registers, crash shows an old stack, and no such line.
            demand("[exception RIP: " in stack and is_in(stack, task["function"]),
                   f"{name} is not in {task['function']}: {summary(stack)}")
    for cpu in case.idle_cpus():
        stack = found[cpu][2]
        demand("[exception RIP: " in stack and is_in(stack, *IDLE),
               f"CPU {cpu} is not idle: {summary(stack)}")
    return f"{len(lines)} tasks, {len(found)} stacks"


def summary(stack):
    return " ".join(re.findall(r"^ *#\d+ \S+ (\S+)", stack, re.M)[:6]) or "no stack"
