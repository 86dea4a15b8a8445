// SPDX-License-Identifier: GPL-2.0
/*
 * Claims the right to redirect kvm_vcpu_ioctl, as a live patch does, and never redirects it. Only
 * one user can have that right.
 */

#include <linux/ftrace.h>
#include <linux/module.h>

static void notrace pass(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
			 struct ftrace_regs *fregs)
{
}

static struct ftrace_ops redirect_ops = {
	.func = pass,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY,
};

static int __init redirect_init(void)
{
	static char function[] = "kvm_vcpu_ioctl";
	int ret;

	ret = ftrace_set_filter(&redirect_ops, function, sizeof(function) - 1, 1);
	if (ret)
		return ret;
	ret = register_ftrace_function(&redirect_ops);
	if (ret)
		ftrace_free_filter(&redirect_ops);
	return ret;
}

static void __exit redirect_exit(void)
{
	unregister_ftrace_function(&redirect_ops);
	ftrace_free_filter(&redirect_ops);
}

module_init(redirect_init);
module_exit(redirect_exit);
MODULE_DESCRIPTION("Test: claims the right to redirect kvm_vcpu_ioctl");
MODULE_LICENSE("GPL");
