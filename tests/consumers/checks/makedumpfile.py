# SPDX-License-Identifier: GPL-2.0
"""makedumpfile: the log, and a compressed file that drgn opens.

`-d 1` leaves out pages of zeros. More (`-d 31`) needs a makedumpfile that knows the kernel: this
one then throws away pages of a newer kernel, and says that it has completed.
"""

import os

import drgn

from .case import Failed, demand, run
from .drgn import open_core, tasks


def check(case):
    log, small = case.path("makedumpfile.log"), case.path("makedumpfile.core")
    run("makedumpfile", "-f", "--dump-dmesg", case.core, log)
    with open(log, encoding="utf-8", errors="replace") as file:
        demand(case.mark in file.read(), f"the log lacks '{case.mark}'")
    run("makedumpfile", "-f", "-c", "-d", "1", case.core, small)
    size, was = os.path.getsize(small), os.path.getsize(case.core)
    try:
        case.demand_tasks(tasks(open_core(small, case.vmlinux)))
    except (drgn.FaultError, LookupError, ValueError, OSError) as error:
        raise Failed(f"drgn does not read the result: {error}") from error
    finally:
        os.unlink(small)
    return f"{was >> 20} MiB become {size >> 20}"
