// SPDX-License-Identifier: GPL-2.0
/*
 * What the Rust module! macro has not: the string parameters, and the version; and where the
 * arguments are as they were written.
 */

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/syscalls.h>

#include "helpers.h"

MODULE_VERSION(KVM_INSPECT_VERSION);

/*
 * A list is given once or several times, and kept whole with commas between. The kernel's own
 * arrays begin anew each time, and their strings have 1024 characters at most.
 */
static int set_list(const char *value, const struct kernel_param *param)
{
	char **list = param->arg;
	size_t old = *list ? strlen(*list) : 0;
	size_t size = old + strlen(value) + 2;
	char *joined;

	if (size > KVM_INSPECT_MAX_ARGUMENTS)
		return -E2BIG;
	joined = kvmalloc(size, GFP_KERNEL);
	if (!joined)
		return -ENOMEM;
	snprintf(joined, size, "%s%s%s", *list ?: "", *list ? "," : "", value);
	kvfree(*list);
	*list = joined;
	return 0;
}

static void free_list(void *arg)
{
	char **list = arg;

	kvfree(*list);
	*list = NULL;
}

static const struct kernel_param_ops list_ops = {
	.set = set_list,
	.free = free_list,
};

char *kvm_inspect_patterns;
module_param_cb(pattern, &list_ops, &kvm_inspect_patterns, 0);
MODULE_PARM_DESC(pattern,
		 "What to search for: a list of text:..., itext:..., utf16:..., iutf16:..., "
		 "hex:48 8b ?? 4?");
__MODULE_PARM_TYPE(pattern, "list");

char *kvm_inspect_ranges;
module_param_cb(range, &list_ops, &kvm_inspect_ranges, 0);
MODULE_PARM_DESC(range,
		 "Guest-physical addresses to search: a list of FIRST-LAST or "
		 "FIRST+SIZE (default: all)");
__MODULE_PARM_TYPE(range, "list");

char *kvm_inspect_access = "";
module_param_named(access, kvm_inspect_access, charp, 0);
MODULE_PARM_DESC(access,
		 "How guest pages are read: linear, vmap or copy (default: linear)");

char *kvm_inspect_engine = "";
module_param_named(engine, kvm_inspect_engine, charp, 0);
MODULE_PARM_DESC(engine,
		 "What searches: avx512, avx2 or portable (default: the fastest that the CPU has)");

char *kvm_inspect_late = "";
module_param_named(late, kvm_inspect_late, charp, 0);
MODULE_PARM_DESC(late,
		 "What to do if a vCPU does not stop in time: refuse, or report all the same "
		 "(default: refuse)");

/*
 * The arguments as they were written, in the memory of the process that loads the module (init runs
 * in its system call); 0 if they are not to be found.
 */
unsigned long kvm_inspect_arguments(void)
{
	struct pt_regs *registers = task_pt_regs(current);

	if ((current->flags & PF_KTHREAD) || in_ia32_syscall())
		return 0;
	switch (registers->orig_ax) {
	case __NR_init_module:
		return registers->dx;
	case __NR_finit_module:
		return registers->si;
	default:
		return 0;
	}
}

/* The parameters of this module, as the kernel's parser sees them; NULL after the last one. */
const char *kvm_inspect_parameter_name(unsigned int index)
{
	return index < THIS_MODULE->num_kp ? THIS_MODULE->kp[index].name : NULL;
}
