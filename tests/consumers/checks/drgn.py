# SPDX-License-Identifier: GPL-2.0
"""drgn: tasks, the log, stacks of tasks that sleep and that run, memory of a process."""

import drgn
from drgn.helpers.linux import (
    access_remote_vm, cpu_curr, find_task, for_each_task, for_each_vma, get_dmesg)

from .case import IDLE, Failed, demand, is_in

# Reads of user memory that is not there.
FAULT = (drgn.FaultError, OSError)


def check(case):
    try:
        program = open_core(case.core, case.vmlinux)
        return look(program, case)
    except (drgn.FaultError, LookupError, ValueError, OSError) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error


def open_core(core, vmlinux):
    program = drgn.Program()
    program.set_core_dump(core)
    program.load_debug_info([vmlinux])
    return program


def tasks(program):
    return [(task.pid.value_(), task.comm.string_().decode()) for task in for_each_task(program)]


def look(program, case):
    demand(program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL, "it is no kernel's core")
    levels = program["__pgtable_l5_enabled"].value_() + 4
    demand(levels == case.expected["levels"], f"there are {levels} levels of page tables")
    found = tasks(program)
    case.demand_tasks(found)
    demand(case.mark.encode() in get_dmesg(program), f"the log lacks '{case.mark}'")
    for task in case.expected["sleeping"]:
        names = stack(program, task["pid"])
        demand(has(names, task["function"]) and has(names, "entry_SYSCALL_64"),
               f"{task['comm']} does not sleep in {task['function']}: {' '.join(names)}")
    for task in case.expected["running"]:
        look_at_running(program, task)
    for cpu in case.idle_cpus():
        names = stack(program, cpu_curr(program, cpu))
        demand(is_in(" ".join(names), *IDLE), f"CPU {cpu} is not idle: {' '.join(names)}")
    look_for_secret(program, case)
    # Not memory at the guest-physical address of that number.
    try:
        program.read(0x400000, 16)
        raise Failed("an address of user space is read as a guest-physical one")
    except drgn.FaultError:
        pass
    return f"{len(found)} tasks"


def stack(program, thread):
    return [frame.name or hex(frame.pc) for frame in program.stack_trace(thread)]


def has(names, function):
    return any(function in name for name in names)


def look_at_running(program, task):
    pid, comm, cpu = task["pid"], task["comm"], task["cpu"]
    now = cpu_curr(program, cpu).pid.value_()
    demand(now == pid, f"CPU {cpu} runs {now}, not {comm}")
    trace = program.stack_trace(pid)
    names = stack(program, pid)
    if task["function"]:
        demand(is_in(" ".join(names), task["function"]),
               f"{comm} does not run {task['function']}: {' '.join(names)}")
    else:
        is_user = trace[0].pc < 1 << 56
        demand(is_user or is_in(" ".join(names)), f"{comm} is not in user space: {names[0]}")


def look_for_secret(program, case):
    task = find_task(program, case.expected["secret"]["pid"])
    for vma in for_each_vma(task.mm):
        begin, end = vma.vm_start.value_(), vma.vm_end.value_()
        for address in range(begin, end, 4096):
            try:
                page = access_remote_vm(task.mm, address, 4096)
            except FAULT:
                continue
            if case.secret in page:
                return
    raise Failed("the secret is not in the memory of its process")
