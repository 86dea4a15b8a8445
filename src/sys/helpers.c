// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. */

#include <linux/atomic.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/vmalloc.h>

/* KVM's own, of arch/x86/kvm */
#include "irq.h"
#include "x86.h"

#include "helpers.h"

void kvm_inspect_set_notify_flag(struct task_struct *task)
{
	set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
}

bool kvm_inspect_user_64bit_mode(struct pt_regs *registers)
{
	return user_64bit_mode(registers);
}

bool kvm_inspect_has_notify_flag(struct task_struct *task)
{
	return test_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
}

bool kvm_inspect_has_signal(struct task_struct *task)
{
	return task_sigpending(task);
}

bool kvm_inspect_is_running(struct task_struct *task)
{
	return task_is_running(task);
}

bool kvm_inspect_is_dying(struct task_struct *task)
{
	return (READ_ONCE(task->signal->flags) & SIGNAL_GROUP_EXIT) ||
	       !atomic_read(&task->signal->live);
}

/* On NULL (the task has exited) nothing is locked. */
struct files_struct *kvm_inspect_lock_files(struct task_struct *task)
{
	struct files_struct *files;

	task_lock(task);
	files = task->files;
	if (!files)
		task_unlock(task);
	return files;
}

void kvm_inspect_unlock_files(struct task_struct *task)
{
	task_unlock(task);
}

void kvm_inspect_cond_resched(void)
{
	cond_resched();
}

unsigned int kvm_inspect_memalloc_noio_save(void)
{
	return memalloc_noio_save();
}

void kvm_inspect_memalloc_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

void kvm_inspect_put_page(struct page *page)
{
	put_page(page);
}

/* Whether there may be NUMA hinting entries. Balancing, turned off, leaves those it has made. */
bool kvm_inspect_has_numa_hints(void)
{
	return IS_ENABLED(CONFIG_NUMA_BALANCING) && num_online_nodes() > 1;
}

void *kvm_inspect_vmap_read_only(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP, PAGE_KERNEL_RO);
}

bool kvm_inspect_mutex_trylock_nested(struct mutex *mutex, struct mutex *nest)
{
	return mutex_trylock_nest_lock(mutex, nest);
}

bool kvm_inspect_mutex_is_locked(struct mutex *mutex)
{
	return mutex_is_locked(mutex);
}

void kvm_inspect_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

static bool (*get_kvm_safe)(struct kvm *kvm);
static void (*put_kvm)(struct kvm *kvm);

bool kvm_inspect_bind_kvm(void)
{
	get_kvm_safe = symbol_get(kvm_get_kvm_safe);
	put_kvm = symbol_get(kvm_put_kvm);
	if (get_kvm_safe && put_kvm)
		return true;
	kvm_inspect_unbind_kvm();
	return false;
}

void kvm_inspect_unbind_kvm(void)
{
	if (get_kvm_safe)
		symbol_put(kvm_get_kvm_safe);
	if (put_kvm)
		symbol_put(kvm_put_kvm);
}

bool kvm_inspect_get_kvm_safe(struct kvm *kvm)
{
	return get_kvm_safe(kvm);
}

void kvm_inspect_put_kvm(struct kvm *kvm)
{
	put_kvm(kvm);
}

int kvm_inspect_online_vcpus(struct kvm *kvm)
{
	return atomic_read(&kvm->online_vcpus);
}

struct kvm_vcpu *kvm_inspect_get_vcpu(struct kvm *kvm, int index)
{
	return kvm_get_vcpu(kvm, index);
}

struct task_struct *kvm_inspect_get_vcpu_task(struct kvm_vcpu *vcpu)
{
	struct task_struct *task;

	read_lock(&vcpu->pid_lock);
	task = vcpu->pid ? get_pid_task(vcpu->pid, PIDTYPE_PID) : NULL;
	read_unlock(&vcpu->pid_lock);
	return task;
}

bool kvm_inspect_vcpu_has_reg(struct kvm_vcpu *vcpu, unsigned int reg)
{
	return test_bit(reg, vcpu->arch.regs_avail);
}

/* As kvm_get_cr8(), which KVM keeps to itself. */
u64 kvm_inspect_vcpu_cr8(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	if (!apic)
		return vcpu->arch.cr8;
	return (kvm_lapic_get_reg(apic, APIC_TASKPRI) & 0xf0) >> 4;
}

/* Set by KVM_SEV_INIT and all its kin, before the first vCPU runs (sev.c, __sev_guest_init()). */
bool kvm_inspect_is_sev(struct kvm *kvm)
{
	return READ_ONCE(kvm->arch.apicv_inhibit_reasons) & BIT(APICV_INHIBIT_REASON_SEV);
}

bool kvm_inspect_is_private(struct kvm *kvm, gfn_t gfn)
{
	return kvm_mem_is_private(kvm, gfn);
}

int kvm_inspect_address_spaces(struct kvm *kvm)
{
	return kvm_arch_nr_memslot_as_ids(kvm);
}

struct kvm_memslots *kvm_inspect_memslots(struct kvm *kvm, int as_id)
{
	return __kvm_memslots(kvm, as_id);
}

struct rb_node *kvm_inspect_rb_first(const struct rb_root *root)
{
	return rb_first(root);
}

u8 kvm_inspect_cmpxchg_u8(u8 *at, u8 old, u8 new)
{
	return cmpxchg(at, old, new);
}
