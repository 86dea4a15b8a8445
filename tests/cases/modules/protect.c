// SPDX-License-Identifier: GPL-2.0
/*
 * Marks a VM of the process that loads this module as protected. KVM does so for SEV and TDX, which
 * need hardware. The VM must not run meanwhile. Unloading removes the mark.
 */

#include <linux/file.h>
#include <linux/kvm_host.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>

#include "svm/svm.h" /* KVM's own, of arch/x86/kvm */

static int fd = -1;
module_param(fd, int, 0);
MODULE_PARM_DESC(fd, "File descriptor of the VM");

static bool state;
module_param(state, bool, 0);
MODULE_PARM_DESC(state, "Say that the registers are protected");

static bool sev;
module_param(sev, bool, 0);
MODULE_PARM_DESC(sev, "Say that it is a SEV guest, however it was made");

static bool sev_es;
module_param(sev_es, bool, 0);
MODULE_PARM_DESC(sev_es, "Say that it is a SEV-ES guest");

static bool moved;
module_param(moved, bool, 0);
MODULE_PARM_DESC(moved, "Say that it is what a SEV guest has left that has moved");

static int vm_type = -1;
module_param(vm_type, int, 0);
MODULE_PARM_DESC(vm_type, "Say that the VM is of this type");

static bool skew;
module_param(skew, bool, 0);
MODULE_PARM_DESC(skew, "Change what each VM has in the same place");

static struct file *file;
static typeof_member(struct kvm_arch, vm_type) saved_type;

static struct kvm *the_vm(void)
{
	return file->private_data;
}

#ifdef CONFIG_KVM_AMD_SEV
static bool mark_as_sev(bool mark)
{
	struct kvm_sev_info *info = to_kvm_sev_info(the_vm());

	/* KVM looks at the mask for any such guest: there is no CPU whose cache it must flush. */
	if (mark && !zalloc_cpumask_var(&info->have_run_cpus, GFP_KERNEL))
		return false;
	info->active = mark && !moved;
	info->es_active = mark && sev_es;
	if (!mark) {
		/* No reclaim that has seen the mark still uses the mask. */
		mmu_notifier_synchronize();
		free_cpumask_var(info->have_run_cpus);
		memset(&info->have_run_cpus, 0, sizeof(cpumask_var_t));
	}
	return true;
}
#else
static bool mark_as_sev(bool mark)
{
	return false;
}
#endif

static int __init protect_init(void)
{
	file = fget(fd);
	if (!file)
		return -EBADF;
	saved_type = the_vm()->arch.vm_type;
	if (state)
		the_vm()->arch.has_protected_state = true;
	if ((sev || sev_es || moved) && !mark_as_sev(true)) {
		fput(file);
		return -ENOMEM;
	}
	if (skew)
		kvm_get_vcpu(the_vm(), 0)->vcpu_idx ^= 1;
	if (vm_type >= 0)
		the_vm()->arch.vm_type = vm_type;
	return 0;
}

static void __exit protect_exit(void)
{
	if (state)
		the_vm()->arch.has_protected_state = false;
	if (sev || sev_es || moved)
		mark_as_sev(false);
	if (skew)
		kvm_get_vcpu(the_vm(), 0)->vcpu_idx ^= 1;
	the_vm()->arch.vm_type = saved_type;
	fput(file);
}

module_init(protect_init);
module_exit(protect_exit);
MODULE_DESCRIPTION("Test: marks a VM as protected");
MODULE_LICENSE("GPL");
