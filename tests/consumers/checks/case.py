# SPDX-License-Identifier: GPL-2.0
"""What a check is given, and what it says."""

import json
import os
import re
import subprocess


class Failed(Exception):
    """The program does not find what it must."""


# What the stack of a CPU has that nothing runs on. Compilers and programs leave out one or another.
IDLE = ("do_idle", "cpu_startup_entry")


def is_in(stack, *functions):
    """Returns whether a stack, as text, is that of one of these functions, or of an interrupt.

    An interrupt may come at any moment, and not all programs find the way from its stack to the one
    below. Its entry (`asm_sysvec_...`) alone says nothing: it is on old stacks, too. Its exit has
    the timer set. Nobody finds the way out of a retpoline: the kernel has no words for its stack
    (`UNWIND_HINT_UNDEFINED` in arch/x86/lib/retpoline.S).
    """
    is_interrupt = re.search(r"(?<!asm_)sysvec_|handle_softirqs|hrtimer_rearm_deferred", stack)
    is_retpoline = re.search(r"__x86_(indirect|return)_thunk", stack)
    return bool(is_interrupt or is_retpoline) or any(name in stack for name in functions)


class Case:
    """The files that the programs open, and what the guest has said of itself."""

    def __init__(self, options):
        self.core = options.core
        self.gdb_core = options.gdb_core
        self.lime = options.lime
        self.witness = options.witness
        self.vmlinux = options.vmlinux
        self.symbols = options.symbols
        self.work = options.work
        with open(options.expected, encoding="utf-8") as file:
            self.expected = json.load(file)
        self.secret = bytes.fromhex(self.expected["secret"]["bytes"])
        self.mark = self.expected["log"]

    def path(self, name):
        """Returns the path of a file for this check alone."""
        return os.path.join(self.work, name)

    def demand_tasks(self, found):
        """Demands that all tasks are among these pairs of a number and a name."""
        found = {(pid, name[:15]) for pid, name in found}
        expected = {(task["pid"], task["comm"]) for task in self.expected["tasks"]}
        missing = sorted(expected - found)
        if missing:
            raise Failed(
                f"of {len(expected)} tasks, {len(missing)} are not there, as {missing[0]}")

    def idle_cpus(self):
        busy = {task["cpu"] for task in self.expected["running"]}
        return [cpu for cpu in range(self.expected["cpus"]) if cpu not in busy]


def demand(condition, otherwise):
    if not condition:
        raise Failed(otherwise)


def run(*command, **more):
    """Runs a program. Returns what it prints, its errors included."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", check=False, **more)
    if done.returncode != 0:
        name = os.path.basename(command[0])
        raise Failed(f"{name} ends with {done.returncode}: {reason(done.stdout)}")
    return done.stdout


def reason(text):
    """Returns the line of an output that tells most likely what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no word"]
    wrong = re.compile(r"error|cannot|can't|invalid|unsatisfied|does not|specify", re.I)
    return next((line for line in lines if wrong.search(line)), lines[-1])
