// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. */

#include <linux/atomic.h>
#include <linux/highmem.h>
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/pgtable.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/vmalloc.h>

#include <asm/fpu/api.h>

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

bool kvm_inspect_task_sigpending(struct task_struct *task)
{
	return task_sigpending(task);
}

bool kvm_inspect_fatal_signal_pending(struct task_struct *task)
{
	return fatal_signal_pending(task);
}

bool kvm_inspect_task_is_running(struct task_struct *task)
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

/* Pages of one folio give up their references at once. */
void kvm_inspect_put_pages(struct page **pages, unsigned long count)
{
	unsigned long first, next;

	for (first = 0; first < count; first = next) {
		struct folio *folio = page_folio(pages[first]);

		next = first + 1;
		while (next < count && page_folio(pages[next]) == folio)
			next++;
		folio_put_refs(folio, next - first);
	}
}

void *kvm_inspect_page_address(struct page *page)
{
	return page_address(page);
}

void kvm_inspect_copy_page(void *to, struct page *page)
{
	memcpy(to, page_address(page), PAGE_SIZE);
}

#define UNMAPPED_STEPS 1024

/*
 * Where, from @start on, the page tables have something that the fast GUP may take; @end if
 * nowhere before that. May stop earlier, after so many steps.
 *
 * Tables are read as the fast GUP does, without a lock: with interrupts off they are not freed
 * (mm/gup.c). An empty entry of any level is passed by at once.
 */
unsigned long kvm_inspect_next_mapped(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	unsigned long addr = start, flags;
	unsigned int step;

	if (start >= end || end > TASK_SIZE_MAX)
		return start;
	for (step = 0; addr < end && step < UNMAPPED_STEPS; step++) {
		bool found = false;
		pgd_t *pgdp, pgd;
		p4d_t *p4dp, p4d;
		pud_t *pudp, pud;
		pmd_t *pmdp, pmd;

		local_irq_save(flags);
		pgdp = pgd_offset(mm, addr);
		pgd = pgdp_get(pgdp);
		if (pgd_none(pgd)) {
			addr = pgd_addr_end(addr, end);
			goto next;
		}
		p4dp = p4d_offset_lockless(pgdp, pgd, addr);
		p4d = p4dp_get(p4dp);
		if (!p4d_present(p4d)) {
			addr = p4d_addr_end(addr, end);
			goto next;
		}
		pudp = pud_offset_lockless(p4dp, p4d, addr);
		pud = pudp_get(pudp);
		if (!pud_present(pud)) {
			addr = pud_addr_end(addr, end);
			goto next;
		}
		if (pud_leaf(pud)) {
			found = true;
			goto next;
		}
		pmdp = pmd_offset_lockless(pudp, pud, addr);
		pmd = pmdp_get_lockless(pmdp);
		if (!pmd_present(pmd) || (pmd_leaf(pmd) && pmd_special(pmd))) {
			addr = pmd_addr_end(addr, end);
		} else if (pmd_leaf(pmd)) {
			found = true;
		} else {
			unsigned long last = pmd_addr_end(addr, end);
			pte_t *ptep = pte_offset_kernel(&pmd, addr);

			for (; addr < last; addr += PAGE_SIZE, ptep++) {
				pte_t pte = ptep_get_lockless(ptep);

				if (pte_present(pte) && !pte_special(pte)) {
					found = true;
					break;
				}
			}
		}
next:
		local_irq_restore(flags);
		if (found)
			break;
	}
	return addr;
}

void kvm_inspect_kernel_fpu_begin(void)
{
	kernel_fpu_begin();
}

void kvm_inspect_kernel_fpu_end(void)
{
	kernel_fpu_end();
}

bool kvm_inspect_has_avx2(void)
{
	return boot_cpu_has(X86_FEATURE_AVX2) && boot_cpu_has(X86_FEATURE_BMI1) &&
	       cpu_has_xfeatures(XFEATURE_MASK_SSE | XFEATURE_MASK_YMM, NULL);
}

bool kvm_inspect_has_avx512(void)
{
	return kvm_inspect_has_avx2() && boot_cpu_has(X86_FEATURE_AVX512BW) &&
	       boot_cpu_has(X86_FEATURE_AVX512VL) && boot_cpu_has(X86_FEATURE_AVX512VBMI) &&
	       cpu_has_xfeatures(XFEATURE_MASK_AVX512, NULL);
}

unsigned int kvm_inspect_num_online_cpus(void)
{
	return num_online_cpus();
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

int kvm_inspect_may_read_memory(void)
{
	return security_locked_down(LOCKDOWN_KCORE);
}

bool kvm_inspect_mutex_trylock_nest_lock(struct mutex *mutex, struct mutex *nest)
{
	return mutex_trylock_nest_lock(mutex, nest);
}

bool kvm_inspect_mutex_is_locked(struct mutex *mutex)
{
	return mutex_is_locked(mutex);
}

int kvm_inspect_mutex_lock_killable(struct mutex *mutex)
{
	return mutex_lock_killable(mutex);
}

void kvm_inspect_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

void kvm_inspect_rcu_tasks_begin(struct rcu_synchronize *wait)
{
	init_rcu_head(&wait->head);
	init_completion(&wait->completion);
	/* With this callback it begins at once, as in synchronize_rcu_tasks(). */
	call_rcu_tasks(&wait->head, wakeme_after_rcu);
}

void kvm_inspect_rcu_tasks_wait(struct rcu_synchronize *wait)
{
	wait_for_completion(&wait->completion);
	destroy_rcu_head(&wait->head);
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

bool kvm_inspect_kvm_get_kvm_safe(struct kvm *kvm)
{
	return get_kvm_safe(kvm);
}

void kvm_inspect_kvm_put_kvm(struct kvm *kvm)
{
	put_kvm(kvm);
}

int kvm_inspect_online_vcpus(struct kvm *kvm)
{
	return atomic_read(&kvm->online_vcpus);
}

struct kvm_vcpu *kvm_inspect_kvm_get_vcpu(struct kvm *kvm, int index)
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

/* As kvm_get_cr8(), which KVM keeps to itself. */
static u64 get_cr8(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	if (!apic)
		return vcpu->arch.cr8;
	return (kvm_lapic_get_reg(apic, APIC_TASKPRI) & 0xf0) >> 4;
}

/* Call this with vcpu->mutex. Changes nothing; false if KVM itself cannot know them. */
bool kvm_inspect_read_registers(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to)
{
	struct kvm_vcpu_arch *arch = &vcpu->arch;
	int i;

	if (arch->guest_state_protected)
		return false;
	to->rip = arch->rip;
	for (i = 0; i < ARRAY_SIZE(to->general); i++)
		to->general[i] = arch->regs[i];
	to->cr0 = arch->cr0;
	to->cr2 = arch->cr2;
	to->cr3 = arch->cr3;
	to->cr4 = arch->cr4;
	to->cr8 = get_cr8(vcpu);
	to->efer = arch->efer;
	to->apic_base = arch->apic_base;
	to->pat = arch->pat;
	to->xcr0 = arch->xcr0;
	for (i = 0; i < ARRAY_SIZE(to->dr); i++)
		to->dr[i] = arch->db[i];
	to->dr6 = arch->dr6;
	to->dr7 = arch->dr7;
	to->nested = arch->hflags & HF_GUEST_MASK;
	to->smm = kvm_arch_vcpu_memslots_id(vcpu) != 0;
	to->unfinished = arch->complete_userspace_io;
	if (boot_cpu_has(X86_FEATURE_SVM))
		kvm_inspect_read_svm(vcpu, to);
	else
		kvm_inspect_read_vmx(vcpu, to);
	return true;
}

bool kvm_inspect_kvm_mem_is_private(struct kvm *kvm, gfn_t gfn)
{
	return kvm_mem_is_private(kvm, gfn);
}

int kvm_inspect_kvm_arch_nr_memslot_as_ids(struct kvm *kvm)
{
	return kvm_arch_nr_memslot_as_ids(kvm);
}

struct kvm_memslots *kvm_inspect___kvm_memslots(struct kvm *kvm, int as_id)
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
