/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel offers only as a macro or an inline function, as functions
 * that Rust can call, and the string parameters. What can be done in Rust is done there.
 */
#ifndef KVM_INSPECT_HELPERS_H
#define KVM_INSPECT_HELPERS_H

#include <linux/kvm_host.h>
#include <linux/rcupdate_wait.h>

/* What KVM holds of a vCPU's registers. */
struct kvm_inspect_registers {
	u64 rip, rflags;
	u64 general[16]; /* in the order of KVM's enumeration */
	u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
	struct kvm_dtable gdt, idt;
	u64 kernel_gs_base, lstar, star, cstar, sfmask;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 tsc_aux, pat, xcr0;
	u64 dr[4], dr6, dr7;
	u32 lacks; /* what could not be read */
	bool nested; /* they are those of a nested guest */
	bool smm;
	bool unfinished; /* the VMM has not completed the last exit */
};

enum {
	/* rflags, segments, tables, sysenter_* */
	KVM_INSPECT_LACKS_VMCS = 1 << 0,
	KVM_INSPECT_LACKS_RIP = 1 << 1,
	KVM_INSPECT_LACKS_RSP = 1 << 2,
	KVM_INSPECT_LACKS_CR0 = 1 << 3,
	KVM_INSPECT_LACKS_CR3 = 1 << 4,
	KVM_INSPECT_LACKS_CR4 = 1 << 5,
};

/* The most bytes of all arguments together: 256 of the longest patterns, and ranges, fit. */
#define KVM_INSPECT_MAX_ARGUMENTS (512 * 1024)

/* The lists, with commas between; NULL if not given. */
extern char *kvm_inspect_patterns;
extern char *kvm_inspect_ranges;
extern char *kvm_inspect_access;
extern char *kvm_inspect_engine;
extern char *kvm_inspect_late;

unsigned long kvm_inspect_arguments(void);
const char *kvm_inspect_parameter_name(unsigned int index);

/* <linux/sched/signal.h>, <linux/sched/task.h>, <linux/sched.h> */
bool kvm_inspect_set_notify_flag(struct task_struct *task);
struct pt_regs *kvm_inspect_current_pt_regs(void);
bool kvm_inspect_user_64bit_mode(struct pt_regs *registers);
bool kvm_inspect_has_notify_flag(struct task_struct *task);
bool kvm_inspect_has_foreign_task_work(void);
bool kvm_inspect_task_sigpending(struct task_struct *task);
bool kvm_inspect_fatal_signal_pending(struct task_struct *task);
bool kvm_inspect_is_freezing(void);
bool kvm_inspect_task_is_on_cpu(struct task_struct *task);
bool kvm_inspect_task_is_running(struct task_struct *task);
bool kvm_inspect_is_dying(struct task_struct *task);
struct pid *kvm_inspect_get_tgid(struct pid *pid);
struct pid *kvm_inspect_find_get_tgid(pid_t number);
struct task_struct *kvm_inspect_get_thread_with_files(struct task_struct *process);
struct files_struct *kvm_inspect_lock_files(struct task_struct *task);
void kvm_inspect_unlock_files(struct task_struct *task);
void kvm_inspect_cond_resched(void);

/* <linux/sched/mm.h>, <linux/mm.h>, <linux/vmalloc.h> */
unsigned int kvm_inspect_memalloc_noio_save(void);
void kvm_inspect_memalloc_noio_restore(unsigned int flags);
void kvm_inspect_put_pages(struct page **pages, unsigned long count);
void *kvm_inspect_page_address(struct page *page);
void *kvm_inspect_vmap_read_only(struct page **pages, unsigned int count);

/* <linux/pgtable.h>, <linux/leafops.h> */
enum {
	KVM_INSPECT_ENTRY_NONE,
	KVM_INSPECT_ENTRY_PRESENT,
	/* present, but of no ordinary page */
	KVM_INSPECT_ENTRY_SPECIAL,
	KVM_INSPECT_ENTRY_SWAPPED,
	KVM_INSPECT_ENTRY_POISONED,
	KVM_INSPECT_ENTRY_GUARD,
	KVM_INSPECT_ENTRY_DEVICE,
	KVM_INSPECT_ENTRY_BUSY,
};

unsigned long kvm_inspect_next_entry(struct mm_struct *mm, unsigned long start, unsigned long end,
				     unsigned int *entry);

/* <linux/mm.h>, <linux/pagemap.h>, <linux/shmem_fs.h>, <linux/xarray.h>, <linux/uaccess.h> */
struct address_space *kvm_inspect_area_mapping(struct vm_area_struct *area);
bool kvm_inspect_area_is_anonymous(struct vm_area_struct *area);
pgoff_t kvm_inspect_linear_page_index(struct vm_area_struct *area, unsigned long address);
bool kvm_inspect_is_memory_only(struct address_space *mapping);
bool kvm_inspect_is_in_linear_map(struct address_space *mapping);
unsigned long kvm_inspect_mapping_pages(struct address_space *mapping);
bool kvm_inspect_xa_is_value(const void *entry);
unsigned long kvm_inspect_empty_until(struct mm_struct *mm, unsigned long start, unsigned long end);
struct page *kvm_inspect_cached_page(struct address_space *mapping, pgoff_t index, bool *fresh);
struct page *kvm_inspect_zero_page(void);
bool kvm_inspect_is_page_hwpoison(struct page *page);
unsigned long kvm_inspect_copy_mc(void *to, const void *from, unsigned long len);

/* <asm/fpu/api.h>, <asm/cpufeature.h>, <linux/cpumask.h> */
void kvm_inspect_kernel_fpu_begin(void);
void kvm_inspect_kernel_fpu_end(void);
bool kvm_inspect_has_avx2(void);
bool kvm_inspect_has_avx512(void);
unsigned int kvm_inspect_num_online_cpus(void);

/* <linux/module.h>, <linux/fs.h> */
bool kvm_inspect_pin_module(void);
const struct file_operations *kvm_inspect_own_file_operations(const struct file_operations *from);

/* <linux/sched/signal.h>: SIGKILL for a kthread, whose killable waits that ends */
void kvm_inspect_allow_kill(void);
void kvm_inspect_forget_kill(void);
void kvm_inspect_kill(struct task_struct *task);

/* <linux/security.h> */
int kvm_inspect_may_read_memory(void);

/* <linux/mutex.h> */
void kvm_inspect_init_nest_lock(struct mutex *nest);
bool kvm_inspect_trylock_nest(struct mutex *mutex);
bool kvm_inspect_trylock_vcpu(struct kvm_vcpu *vcpu, struct mutex *nest);
int kvm_inspect_mutex_holder(struct mutex *mutex, unsigned int *ioctl);
int kvm_inspect_mutex_lock_killable(struct mutex *mutex);

/* <linux/rcupdate.h>, <linux/rcupdate_wait.h>, <linux/srcu.h> */
void kvm_inspect_synchronize_rcu_tasks(void);
void kvm_inspect_rcu_tasks_begin(struct rcu_synchronize *wait);
void kvm_inspect_rcu_tasks_wait(struct rcu_synchronize *wait);
int kvm_inspect_srcu_read_lock(struct srcu_struct *srcu);
void kvm_inspect_srcu_read_unlock(struct srcu_struct *srcu, int section);

/*
 * symbol_get() of <linux/module.h>, as drivers/vfio uses it for the same: without KVM the module
 * can say so itself, instead of failing to link.
 */
bool kvm_inspect_bind_kvm(void);
void kvm_inspect_unbind_kvm(void);
bool kvm_inspect_kvm_get_kvm_safe(struct kvm *kvm);
void kvm_inspect_kvm_put_kvm(struct kvm *kvm);

/* <linux/kvm_host.h> */
unsigned int kvm_inspect_users_count(struct kvm *kvm);
int kvm_inspect_online_vcpus(struct kvm *kvm);
struct kvm_vcpu *kvm_inspect_kvm_get_vcpu(struct kvm *kvm, int index);
struct task_struct *kvm_inspect_get_vcpu_task(struct kvm_vcpu *vcpu);
bool kvm_inspect_vcpu_wants_to_run(struct kvm_vcpu *vcpu);
bool kvm_inspect_set_notify_flag_in_kvm_run(struct kvm_vcpu *vcpu, struct task_struct *task);
bool kvm_inspect_read_registers(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to);
void kvm_inspect_read_svm(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to);
void kvm_inspect_read_vmx(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to);
bool kvm_inspect_has_this_layout(struct kvm *kvm);
bool kvm_inspect_vcpu_has_this_layout(struct kvm_vcpu *vcpu);
bool kvm_inspect_svm_has_this_layout(struct kvm_vcpu *vcpu);
bool kvm_inspect_vmx_has_this_layout(struct kvm_vcpu *vcpu);
unsigned int kvm_inspect_vm_type(struct kvm *kvm);
bool kvm_inspect_has_protected_state(struct kvm *kvm);
bool kvm_inspect_is_sev(struct kvm *kvm);
bool kvm_inspect_is_sev_es(struct kvm *kvm);
bool kvm_inspect_was_sev(struct kvm *kvm);
bool kvm_inspect_kvm_mem_is_private(struct kvm *kvm, gfn_t gfn);
int kvm_inspect_kvm_arch_nr_memslot_as_ids(struct kvm *kvm);
struct kvm_memslots *kvm_inspect___kvm_memslots(struct kvm *kvm, int as_id);
struct rb_node *kvm_inspect_rb_first(const struct rb_root *root);

/* <linux/atomic.h> */
u32 kvm_inspect_hash_ptr(const void *ptr, unsigned int bits);

u8 kvm_inspect_cmpxchg_u8(u8 *at, u8 old, u8 new);

#endif
