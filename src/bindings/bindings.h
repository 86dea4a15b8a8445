/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: everything the module needs that kernel::bindings lacks. */

#include <crypto/sha2.h>
#include <linux/capability.h>
#include <linux/completion.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/ftrace.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/rcupdate_wait.h>
#include <linux/sched.h>
#include <linux/unistd.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

#include "../../include/uapi/kvm_inspect.h"
#include "helpers.h"

/* Macros that bindgen cannot evaluate. */
enum {
	KVM_INSPECT_KVM_RUN = KVM_RUN,
	KVM_INSPECT_KVMCLOCK_CTRL = KVM_KVMCLOCK_CTRL,
	KVM_INSPECT_FOLL_PRESENT = FOLL_NOFAULT | FOLL_DUMP,
	KVM_INSPECT_FOLL_WRITE = FOLL_WRITE,
	KVM_INSPECT_VM_DEVICE = VM_PFNMAP | VM_IO,
	/* An area whose special entries may be a device's. */
	KVM_INSPECT_VM_DEVICE_SPECIAL = VM_PFNMAP | VM_IO | VM_MIXEDMAP,
	KVM_INSPECT_VM_UFFD_MISSING = VM_UFFD_MISSING,
	KVM_INSPECT_XA_PRESENT = (unsigned int)XA_PRESENT,
	KVM_INSPECT_NR_IOCTL = __NR_ioctl,
	KVM_INSPECT_SYMBOL_LEN = KSYM_SYMBOL_LEN,
	KVM_INSPECT_LOG_BYTES = 1 << CONFIG_LOG_BUF_SHIFT,
	/* In 7.2 the permanent one also keeps ftrace, and so the probes, from being turned off. */
	KVM_INSPECT_FTRACE_IPMODIFY = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY |
				      FTRACE_OPS_FL_PERMANENT,
};

/* The calls of the device. */
enum {
	KVM_INSPECT_NR_ATTACH = KVM_INSPECT_ATTACH,
	KVM_INSPECT_NR_EXPLAIN = KVM_INSPECT_EXPLAIN,
	KVM_INSPECT_NR_PROGRESS = KVM_INSPECT_PROGRESS,
	KVM_INSPECT_NR_SLOTS = KVM_INSPECT_SLOTS,
	KVM_INSPECT_NR_VCPUS = KVM_INSPECT_VCPUS,
	KVM_INSPECT_NR_PRESENT_PAGES = KVM_INSPECT_PRESENT_PAGES,
	KVM_INSPECT_NR_COPY = KVM_INSPECT_COPY,
	KVM_INSPECT_NR_SEARCH = KVM_INSPECT_SEARCH,
	KVM_INSPECT_NR_HITS = KVM_INSPECT_HITS,
	KVM_INSPECT_NR_UNCOVERED = KVM_INSPECT_UNCOVERED,
	KVM_INSPECT_NR_HOLD = KVM_INSPECT_HOLD,
	KVM_INSPECT_NR_RELEASE = KVM_INSPECT_RELEASE,
};

/* Since 7.3. */
#ifndef VM_UFFD_RWP
#define VM_UFFD_RWP VM_NONE
#endif

/* Beyond 32 bits. */
enum {
	KVM_INSPECT_VM_UFFD_MINOR = VM_UFFD_MINOR,
	KVM_INSPECT_VM_UFFD_RWP = VM_UFFD_RWP,
};
