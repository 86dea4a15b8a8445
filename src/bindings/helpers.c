// SPDX-License-Identifier: GPL-2.0
/* See helpers.h. */

#include <linux/atomic.h>
#include <linux/freezer.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/irqflags.h>
#include <linux/leafops.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/pid.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/jobctl.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/security.h>
#include <linux/shmem_fs.h>
#include <linux/srcu.h>
#include <linux/task_work.h>
#include <linux/uaccess.h>
#include <linux/unistd.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

#include <asm/fpu/api.h>

/* KVM's own, of arch/x86/kvm */
#include "irq.h"
#include "x86.h"

#include "helpers.h"

bool kvm_inspect_set_notify_flag(struct task_struct *task)
{
	return !test_and_set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
}

struct pt_regs *kvm_inspect_current_pt_regs(void)
{
	return current_pt_regs();
}

bool kvm_inspect_user_64bit_mode(struct pt_regs *registers)
{
	return user_64bit_mode(registers);
}

bool kvm_inspect_has_notify_flag(struct task_struct *task)
{
	return test_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
}

/*
 * Whether somebody else wants the current task back in user space: queued work (TWA_SIGNAL), as of
 * io_uring. What the scheduler and the like queue (TWA_RESUME) is part of the task itself, and
 * makes no system call return.
 */
bool kvm_inspect_has_foreign_task_work(void)
{
	unsigned long begin = (unsigned long)current;
	struct callback_head *work;
	unsigned long flags;
	bool found = false;

	if (!task_work_pending(current))
		return false;
	/* As task_work_cancel_match(): nobody takes a work off the list meanwhile. */
	raw_spin_lock_irqsave(&current->pi_lock, flags);
	for (work = READ_ONCE(current->task_works); work && !found; work = READ_ONCE(work->next))
		found = (unsigned long)work - begin >= sizeof(struct task_struct);
	raw_spin_unlock_irqrestore(&current->pi_lock, flags);
	return found;
}

bool kvm_inspect_task_sigpending(struct task_struct *task)
{
	return task_sigpending(task);
}

bool kvm_inspect_fatal_signal_pending(struct task_struct *task)
{
	return fatal_signal_pending(task);
}

/* Both kinds: for suspend and cgroup v1, and for cgroup v2. */
bool kvm_inspect_is_freezing(void)
{
	return freezing(current) || (READ_ONCE(current->jobctl) & JOBCTL_TRAP_FREEZE);
}

bool kvm_inspect_task_is_on_cpu(struct task_struct *task)
{
	return READ_ONCE(task->on_cpu);
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

/* A reference to that of the process, for that of a thread. */
struct pid *kvm_inspect_get_tgid(struct pid *pid)
{
	struct pid *tgid = NULL;
	struct task_struct *task;

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_PID);
	if (task)
		tgid = get_pid(task_tgid(task));
	rcu_read_unlock();
	return tgid;
}

/* A reference to the process with this number, or that with a thread of this number. */
struct pid *kvm_inspect_find_get_tgid(pid_t number)
{
	struct pid *pid = find_get_pid(number);
	struct pid *tgid = kvm_inspect_get_tgid(pid);

	put_pid(pid);
	return tgid;
}

/* The first thread of a process may end before the others, and then has no files any more. */
struct task_struct *kvm_inspect_get_thread_with_files(struct task_struct *process)
{
	struct task_struct *thread;

	rcu_read_lock();
	for_each_thread(process, thread) {
		if (READ_ONCE(thread->files) && tryget_task_struct(thread)) {
			rcu_read_unlock();
			return thread;
		}
	}
	rcu_read_unlock();
	return NULL;
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
	/* Also a quiescent state for RCU tasks: who searches for minutes must not hold these up. */
	cond_resched_tasks_rcu_qs();
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

/* What an entry that is neither empty nor present is for. */
static unsigned int kvm_inspect_leaf(pte_t pte)
{
	softleaf_t leaf = softleaf_from_pte(pte);

	if (softleaf_is_swap(leaf))
		return KVM_INSPECT_ENTRY_SWAPPED;
	if (softleaf_is_hwpoison(leaf) || softleaf_is_poison_marker(leaf))
		return KVM_INSPECT_ENTRY_POISONED;
	if (softleaf_is_guard_marker(leaf))
		return KVM_INSPECT_ENTRY_GUARD;
	/* The others say something about a page that is not there. */
	if (softleaf_is_marker(leaf))
		return KVM_INSPECT_ENTRY_NONE;
	if (softleaf_is_device_private(leaf) || softleaf_is_device_exclusive(leaf))
		return KVM_INSPECT_ENTRY_DEVICE;
	/* It is just being moved. */
	return KVM_INSPECT_ENTRY_BUSY;
}

static unsigned int kvm_inspect_entry(pte_t pte)
{
	if (pte_none(pte))
		return KVM_INSPECT_ENTRY_NONE;
	if (!pte_present(pte))
		return kvm_inspect_leaf(pte);
	return pte_special(pte) ? KVM_INSPECT_ENTRY_SPECIAL : KVM_INSPECT_ENTRY_PRESENT;
}

/*
 * How many entries above the last tables to look at, and how many of these tables: a page of a file
 * that is not mapped may cost all that for itself.
 */
#define ENTRY_STEPS 1024
#define ENTRY_TABLES 16

/*
 * What the page tables have at @start, in @entry. Returns up to where, at most @end, the same is
 * so; that may hold further. For what is present, returns @start.
 *
 * Tables are read as the fast GUP does, without a lock: with interrupts off they are not freed
 * (mm/gup.c). An empty entry of any level is passed by at once.
 */
unsigned long kvm_inspect_next_entry(struct mm_struct *mm, unsigned long start, unsigned long end,
				     unsigned int *entry)
{
	unsigned int step, tables = 0;
	unsigned long addr = start, flags;

	*entry = KVM_INSPECT_ENTRY_PRESENT;
	if (start >= end || end > TASK_SIZE_MAX)
		return start;
	for (step = 0; addr < end && step < ENTRY_STEPS && tables < ENTRY_TABLES; step++) {
		unsigned int here = KVM_INSPECT_ENTRY_NONE;
		unsigned long next;
		pgd_t *pgdp, pgd;
		p4d_t *p4dp, p4d;
		pud_t *pudp, pud;
		pmd_t *pmdp, pmd;

		local_irq_save(flags);
		pgdp = pgd_offset(mm, addr);
		pgd = pgdp_get(pgdp);
		next = pgd_addr_end(addr, end);
		if (pgd_none(pgd))
			goto known;
		p4dp = p4d_offset_lockless(pgdp, pgd, addr);
		p4d = p4dp_get(p4dp);
		next = p4d_addr_end(addr, end);
		if (!p4d_present(p4d))
			goto known;
		pudp = pud_offset_lockless(p4dp, p4d, addr);
		pud = pudp_get(pudp);
		next = pud_addr_end(addr, end);
		if (pud_none(pud))
			goto known;
		if (!pud_present(pud)) {
			here = kvm_inspect_leaf(__pte(pud_val(pud)));
			goto known;
		}
		if (pud_leaf(pud)) {
			here = pud_special(pud) ? KVM_INSPECT_ENTRY_SPECIAL :
						  KVM_INSPECT_ENTRY_PRESENT;
			goto known;
		}
		pmdp = pmd_offset_lockless(pudp, pud, addr);
		pmd = pmdp_get_lockless(pmdp);
		next = pmd_addr_end(addr, end);
		if (pmd_none(pmd))
			goto known;
		if (!pmd_present(pmd)) {
			here = kvm_inspect_leaf(__pte(pmd_val(pmd)));
		} else if (pmd_leaf(pmd)) {
			here = pmd_special(pmd) ? KVM_INSPECT_ENTRY_SPECIAL :
						  KVM_INSPECT_ENTRY_PRESENT;
		} else {
			pte_t *ptep = pte_offset_kernel(&pmd, addr);
			unsigned long last = next;

			tables++;
			here = kvm_inspect_entry(ptep_get_lockless(ptep));
			for (next = addr + PAGE_SIZE; next < last; next += PAGE_SIZE)
				if (kvm_inspect_entry(ptep_get_lockless(++ptep)) != here)
					break;
		}
known:
		local_irq_restore(flags);
		if (addr == start)
			*entry = here;
		if (here != *entry || here == KVM_INSPECT_ENTRY_PRESENT)
			break;
		addr = next;
	}
	return addr;
}

/*
 * Up to where, from @start to @end at most, there still is nothing, looked at under the locks of
 * the tables: who exchanges an entry, or a table, leaves it empty for a moment. The area of both
 * addresses is locked, so that nobody makes huge pages of it; RCU keeps tables that are freed.
 */
unsigned long kvm_inspect_empty_until(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	unsigned long addr = start, next;
	bool empty = true;

	rcu_read_lock();
	for (; empty && addr < end; addr = next) {
		pgd_t *pgdp = pgd_offset(mm, addr), pgd = pgdp_get(pgdp);
		p4d_t *p4dp, p4d;
		pud_t *pudp, pud;
		pmd_t *pmdp, pmd;
		spinlock_t *lock;

		next = pgd_addr_end(addr, end);
		if (pgd_none(pgd))
			continue;
		p4dp = p4d_offset_lockless(pgdp, pgd, addr);
		p4d = p4dp_get(p4dp);
		next = p4d_addr_end(addr, end);
		if (!p4d_present(p4d))
			continue;
		pudp = pud_offset_lockless(p4dp, p4d, addr);
		pud = pudp_get(pudp);
		next = pud_addr_end(addr, end);
		if (pud_none(pud)) {
			/* Huge pages of this size are exchanged under it (huge_pte_lockptr()). */
			lock = pud_lock(mm, pudp);
			empty = pud_none(pudp_get(pudp));
			spin_unlock(lock);
			if (!empty)
				break;
			continue;
		}
		if (!pud_present(pud) || pud_leaf(pud))
			break;
		pmdp = pmd_offset_lockless(pudp, pud, addr);
		next = pmd_addr_end(addr, end);
		pmd = pmdp_get_lockless(pmdp);
		if (pmd_none(pmd) || !pmd_present(pmd) || pmd_leaf(pmd)) {
			lock = pmd_lock(mm, pmdp);
			empty = pmd_none(pmdp_get_lockless(pmdp));
			spin_unlock(lock);
			if (!empty)
				break;
			continue;
		}
		lock = pte_lockptr(mm, &pmd);
		spin_lock(lock);
		if (pmd_same(pmd, pmdp_get_lockless(pmdp))) {
			pte_t *ptep = pte_offset_kernel(&pmd, addr);

			for (; empty && addr < next; addr += PAGE_SIZE, ptep++)
				empty = kvm_inspect_entry(ptep_get(ptep)) ==
					KVM_INSPECT_ENTRY_NONE;
			if (!empty)
				addr -= PAGE_SIZE;
		} else {
			empty = false;
		}
		spin_unlock(lock);
		if (!empty)
			break;
	}
	rcu_read_unlock();
	return min(addr, end);
}

/* NULL for anonymous memory, and for a file that has no pages of its own. */
struct address_space *kvm_inspect_area_mapping(struct vm_area_struct *area)
{
	return area->vm_file ? area->vm_file->f_mapping : NULL;
}

bool kvm_inspect_area_is_anonymous(struct vm_area_struct *area)
{
	return vma_is_anonymous(area);
}

pgoff_t kvm_inspect_linear_page_index(struct vm_area_struct *area, unsigned long address)
{
	return linear_page_index(area, address);
}

/* Its content is in memory or swap, and nowhere else: what is not there reads as zeros. */
bool kvm_inspect_is_memory_only(struct address_space *mapping)
{
	return shmem_mapping(mapping) || mapping_inaccessible(mapping) ||
	       mapping->host->i_sb->s_magic == HUGETLBFS_MAGIC;
}

/*
 * It has pages by its own right, no device's, and those that are cached are in the kernel's map of
 * all memory. Those of memfd_secret() are not; their mapping is unevictable, as that of a ramdisk
 * and of locked shared memory, which are.
 */
bool kvm_inspect_is_in_linear_map(struct address_space *mapping)
{
	umode_t mode = mapping->host->i_mode;

	return (S_ISREG(mode) || S_ISBLK(mode)) &&
	       (shmem_mapping(mapping) || !mapping_unevictable(mapping));
}

unsigned long kvm_inspect_mapping_pages(struct address_space *mapping)
{
	return DIV_ROUND_UP_ULL(i_size_read(mapping->host), PAGE_SIZE);
}

bool kvm_inspect_xa_is_value(const void *entry)
{
	return xa_is_value(entry);
}

/*
 * The page of a file with a reference, if it is cached and has been read. @fresh: it was made, and
 * nobody has seen it yet, as after fallocate(): it will read as zeros.
 */
struct page *kvm_inspect_cached_page(struct address_space *mapping, pgoff_t index, bool *fresh)
{
	struct folio *folio = __filemap_get_folio(mapping, index, 0, 0);

	*fresh = false;
	if (IS_ERR(folio))
		return NULL;
	if (folio_test_uptodate(folio))
		return folio_file_page(folio, index);
	/* What is being read, or filled, is locked. */
	*fresh = kvm_inspect_is_memory_only(mapping) && !folio_test_locked(folio);
	folio_put(folio);
	return NULL;
}

/* With a reference. */
struct page *kvm_inspect_zero_page(void)
{
	struct page *page = ZERO_PAGE(0);

	get_page(page);
	return page;
}

bool kvm_inspect_is_page_hwpoison(struct page *page)
{
	return is_page_hwpoison(page);
}

unsigned long kvm_inspect_copy_mc(void *to, const void *from, unsigned long len)
{
	return copy_mc_to_kernel(to, from, len);
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
	       boot_cpu_has(X86_FEATURE_POPCNT) &&
	       cpu_has_xfeatures(XFEATURE_MASK_SSE | XFEATURE_MASK_YMM, NULL);
}

bool kvm_inspect_has_avx512(void)
{
	return kvm_inspect_has_avx2() && boot_cpu_has(X86_FEATURE_AVX512BW) &&
	       boot_cpu_has(X86_FEATURE_AVX512VL) && boot_cpu_has(X86_FEATURE_AVX512VBMI) &&
	       boot_cpu_has(X86_FEATURE_GFNI) &&
	       cpu_has_xfeatures(XFEATURE_MASK_AVX512, NULL);
}

unsigned int kvm_inspect_num_online_cpus(void)
{
	return num_online_cpus();
}

/*
 * vmap() allocates with GFP_KERNEL, and would wait for memory for ever, while the guest that may
 * have to free some stands. So it fails if there is none, not even in reserve.
 */
void *kvm_inspect_vmap_read_only(struct page **pages, unsigned int count)
{
	unsigned int flags = memalloc_noreclaim_save();
	void *mapping = vmap(pages, count, VM_MAP, PAGE_KERNEL_RO);

	memalloc_noreclaim_restore(flags);
	return mapping;
}

/* For good. False if it is too late, since the module is being unloaded. */
bool kvm_inspect_pin_module(void)
{
	return try_module_get(THIS_MODULE);
}

/* A copy of @from by which open files keep this module; NULL if there already is one. */
const struct file_operations *kvm_inspect_own_file_operations(const struct file_operations *from)
{
	static struct file_operations own __ro_after_init;

	if (own.owner)
		return NULL;
	own = *from;
	own.owner = THIS_MODULE;
	return &own;
}

void kvm_inspect_allow_kill(void)
{
	allow_kernel_signal(SIGKILL);
}

void kvm_inspect_forget_kill(void)
{
	flush_signals(current);
}

void kvm_inspect_kill(struct task_struct *task)
{
	send_sig(SIGKILL, task, 1);
}

int kvm_inspect_may_read_memory(void)
{
	return security_locked_down(LOCKDOWN_KCORE);
}

/*
 * lockdep accepts many locks of one class below another lock only. KVM's own would be kvm->lock,
 * which half of KVM's calls wait for.
 */
void kvm_inspect_init_nest_lock(struct mutex *nest)
{
	mutex_init(nest);
}

bool kvm_inspect_trylock_nest(struct mutex *mutex)
{
	return mutex_trylock(mutex);
}

bool kvm_inspect_trylock_vcpu(struct kvm_vcpu *vcpu, struct mutex *nest)
{
	return mutex_trylock_nest_lock(&vcpu->mutex, nest);
}

/*
 * As __mutex_owner(), or rt_mutex_owner() on a realtime kernel, which are not for others. The owner
 * is not freed before it has let go.
 */
static struct task_struct *mutex_owner(struct mutex *mutex)
{
#ifdef CONFIG_PREEMPT_RT
	return (struct task_struct *)((unsigned long)READ_ONCE(mutex->rtmutex.owner) & ~0x01UL);
#else
	return (struct task_struct *)(atomic_long_read(&mutex->owner) & ~0x07UL);
#endif
}

/*
 * The number of the task that holds @mutex, or 0. @ioctl: the ioctl it makes, or 0. This is only to
 * be told: the task may let go at any moment. RCU keeps it, and its stack, for that long.
 */
int kvm_inspect_mutex_holder(struct mutex *mutex, unsigned int *ioctl)
{
	struct task_struct *task;
	int pid = 0;

	*ioctl = 0;
	rcu_read_lock();
	task = mutex_owner(mutex);
	if (task) {
		void *stack = READ_ONCE(task->stack);
		struct pt_regs *regs;
		unsigned int command = 0;

		if (stack && !(task->flags & PF_KTHREAD)) {
			regs = stack + THREAD_SIZE - TOP_OF_KERNEL_STACK_PADDING;
			regs--;
			if (READ_ONCE(regs->orig_ax) == __NR_ioctl)
				command = READ_ONCE(regs->si);
		}
		/* Still there: all of that was its own. */
		if (mutex_owner(mutex) == task) {
			pid = task_pid_nr(task);
			*ioctl = command;
		}
	}
	rcu_read_unlock();
	return pid;
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

int kvm_inspect_srcu_read_lock(struct srcu_struct *srcu)
{
	return srcu_read_lock(srcu);
}

void kvm_inspect_srcu_read_unlock(struct srcu_struct *srcu, int section)
{
	srcu_read_unlock(srcu, section);
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

/* How many hold the VM: its files, and those of vCPUs and devices; others in the kernel. */
unsigned int kvm_inspect_users_count(struct kvm *kvm)
{
	return refcount_read(&kvm->users_count);
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

bool kvm_inspect_vcpu_wants_to_run(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->wants_to_run);
}

/*
 * Sets TIF_NOTIFY_SIGNAL of @task if it is in KVM_RUN for @vcpu. With interrupts off, nothing comes
 * between the look and the flag that would give the task time to enter another system call.
 */
bool kvm_inspect_set_notify_flag_in_kvm_run(struct kvm_vcpu *vcpu, struct task_struct *task)
{
	unsigned long flags;
	bool set = false;

	local_irq_save(flags);
	/* KVM sets it after the pid, and only in KVM_RUN. */
	if (smp_load_acquire(&vcpu->wants_to_run) && READ_ONCE(vcpu->pid) == task_pid(task))
		set = kvm_inspect_set_notify_flag(task);
	local_irq_restore(flags);
	return set;
}

/* As kvm_get_cr8(), which KVM keeps to itself. */
static u64 get_cr8(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	if (!apic)
		return vcpu->arch.cr8;
	return (kvm_lapic_get_reg(apic, APIC_TASKPRI) & 0xf0) >> 4;
}

/*
 * An instruction that KVM emulates, and that waits for the VMM's answer, may have changed general
 * registers. KVM_GET_REGS writes them back first (__get_regs()); this only looks.
 */
static void read_emulated(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to)
{
	const struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	unsigned long dirty;
	int i;

	if (!vcpu->arch.emulate_regs_need_sync_to_vcpu || !ctxt)
		return;
	dirty = ctxt->regs_dirty;
	for_each_set_bit(i, &dirty, NR_EMULATOR_GPRS)
		to->general[i] = ctxt->_regs[i];
	if (dirty & BIT(VCPU_REGS_RSP))
		to->lacks &= ~KVM_INSPECT_LACKS_RSP;
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
	read_emulated(vcpu, to);
	/* It is a debugger's in the VMM, as for kvm_get_rflags(). */
	if (vcpu->guest_debug & KVM_GUESTDBG_SINGLESTEP)
		to->rflags &= ~(u64)X86_EFLAGS_TF;
	return true;
}

/*
 * What holds of every vCPU, at any moment, in a KVM with the layouts that this module was built
 * for. Only pointers into the structure itself are looked at, and none is followed.
 */
bool kvm_inspect_vcpu_has_this_layout(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *arch = &vcpu->arch;
	struct kvm_mmu *mmu = READ_ONCE(arch->mmu);

	if (mmu != &arch->root_mmu && mmu != &arch->guest_mmu)
		return false;
	if (!virt_addr_valid(vcpu->kvm) && !is_vmalloc_addr(vcpu->kvm))
		return false;
	return boot_cpu_has(X86_FEATURE_SVM) ? kvm_inspect_svm_has_this_layout(vcpu) :
					       kvm_inspect_vmx_has_this_layout(vcpu);
}

/* The same of a VM. Its vCPUs are looked for only in a VM that looks right itself. */
bool kvm_inspect_has_this_layout(struct kvm *kvm)
{
	int online = atomic_read(&kvm->online_vcpus);
	int i;

	for (i = 0; i < KVM_MAX_NR_ADDRESS_SPACES; i++) {
		struct kvm_memslots *slots = rcu_access_pointer(kvm->memslots[i]);

		if (slots != &kvm->__memslots[i][0] && slots != &kvm->__memslots[i][1])
			return false;
	}
	if (online < 0 || online > kvm->max_vcpus || kvm->max_vcpus > KVM_MAX_VCPUS)
		return false;
	for (i = 0; i < online; i++) {
		struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, i);

		if (!vcpu || !virt_addr_valid(vcpu) || vcpu->kvm != kvm || vcpu->vcpu_idx != i ||
		    !kvm_inspect_vcpu_has_this_layout(vcpu))
			return false;
	}
	return true;
}

unsigned int kvm_inspect_vm_type(struct kvm *kvm)
{
	return READ_ONCE(kvm->arch.vm_type);
}

bool kvm_inspect_has_protected_state(struct kvm *kvm)
{
	return READ_ONCE(kvm->arch.has_protected_state);
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

u32 kvm_inspect_hash_ptr(const void *ptr, unsigned int bits)
{
	return hash_ptr(ptr, bits);
}

u8 kvm_inspect_cmpxchg_u8(u8 *at, u8 old, u8 new)
{
	return cmpxchg(at, old, new);
}
