// SPDX-License-Identifier: GPL-2.0
/*
 * What only KVM's part for Intel knows; see helpers.h. Much of it is in the VMCS alone, which only
 * the CPU can read on which KVM has loaded it last, until KVM clears it.
 */

#include <linux/smp.h>

#include <asm/hypervisor.h>

#include "vmx/vmx.h"

#include "helpers.h"

bool kvm_inspect_vmx_has_this_layout(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);
	struct loaded_vmcs *loaded = READ_ONCE(vmx->loaded_vmcs);

	/* A TDX guest has another structure, and is refused. */
	if (vcpu->kvm->arch.vm_type == KVM_X86_TDX_VM)
		return true;
	return (loaded == &vmx->vmcs01 || loaded == &vmx->nested.vmcs02) &&
	       virt_addr_valid(vmx->vmcs01.vmcs);
}

/* With VMX off they fail, too. */
static bool vmread(unsigned long field, unsigned long *value)
{
	unsigned long read = 0;
	bool ok = false;

	asm volatile("1: vmread %[field], %[read]\n\t"
		     "seta %[ok]\n"
		     "2:\n\t"
		     _ASM_EXTABLE(1b, 2b)
		     : [read] "+r"(read), [ok] "+q"(ok)
		     : [field] "r"(field)
		     : "cc");
	*value = read;
	return ok;
}

static u64 current_vmcs_address(void)
{
	u64 address = ~0ULL;

	asm volatile("1: vmptrst %[address]\n"
		     "2:\n\t"
		     _ASM_EXTABLE(1b, 2b)
		     : [address] "+m"(address)
		     :
		     : "cc");
	return address;
}

static bool vmptrld(u64 address)
{
	bool ok = false;

	asm volatile("1: vmptrld %[address]\n\t"
		     "seta %[ok]\n"
		     "2:\n\t"
		     _ASM_EXTABLE(1b, 2b)
		     : [ok] "+q"(ok)
		     : [address] "m"(address)
		     : "cc", "memory");
	return ok;
}

static void vmclear(u64 address)
{
	asm volatile("1: vmclear %[address]\n"
		     "2:\n\t"
		     _ASM_EXTABLE(1b, 2b)
		     :
		     : [address] "m"(address)
		     : "cc", "memory");
}

struct reading {
	struct kvm_vcpu *vcpu;
	struct kvm_inspect_registers *to;
	bool ok;
};

static u64 field(struct reading *reading, unsigned long number)
{
	unsigned long value;

	if (!vmread(number, &value))
		reading->ok = false;
	return value;
}

/* As vmx_get_segment(). */
static void read_segment(struct reading *reading, int number, struct kvm_segment *to)
{
	/* Neighbours lie two apart, in the order of this enumeration but for LDTR and TR. */
	static const u8 order[] = {
		[VCPU_SREG_ES] = 0, [VCPU_SREG_CS] = 1, [VCPU_SREG_SS] = 2, [VCPU_SREG_DS] = 3,
		[VCPU_SREG_FS] = 4, [VCPU_SREG_GS] = 5, [VCPU_SREG_LDTR] = 6, [VCPU_SREG_TR] = 7,
	};
	struct vcpu_vmx *vmx = to_vmx(reading->vcpu);
	unsigned long at = 2 * order[number];
	u16 selector = field(reading, GUEST_ES_SELECTOR + at);
	u64 base = field(reading, GUEST_ES_BASE + at);
	u32 rights;

	memset(to, 0, sizeof(*to));
	if (vmx->rmode.vm86_active && number != VCPU_SREG_LDTR) {
		*to = vmx->rmode.segs[number];
		if (number != VCPU_SREG_TR && to->selector != selector) {
			to->base = base;
			to->selector = selector;
		}
		return;
	}
	rights = field(reading, GUEST_ES_AR_BYTES + at);
	to->base = base;
	to->limit = field(reading, GUEST_ES_LIMIT + at);
	to->selector = selector;
	to->unusable = (rights >> 16) & 1;
	to->type = rights & 15;
	to->s = (rights >> 4) & 1;
	to->dpl = (rights >> 5) & 3;
	to->present = !to->unusable;
	to->avl = (rights >> 12) & 1;
	to->l = (rights >> 13) & 1;
	to->db = (rights >> 14) & 1;
	to->g = (rights >> 15) & 1;
}

/* Bits that the guest may change without KVM's seeing it are in the VMCS. */
static u64 merge(u64 cached, u64 owned, u64 vmcs)
{
	return (cached & ~owned) | (vmcs & owned);
}

/* The vCPU's VMCS is current. */
static void read_current_vmcs(struct reading *reading)
{
	struct kvm_inspect_registers *to = reading->to;
	struct kvm_vcpu *vcpu = reading->vcpu;
	struct vcpu_vmx *vmx = to_vmx(vcpu);
	const unsigned long *cached = vcpu->arch.regs_avail;

	reading->ok = true;
	if (!test_bit(VCPU_REG_RIP, cached))
		to->rip = field(reading, GUEST_RIP);
	if (!test_bit(VCPU_REGS_RSP, cached))
		to->general[VCPU_REGS_RSP] = field(reading, GUEST_RSP);
	if (!test_bit(VCPU_REG_CR0, cached))
		to->cr0 = merge(to->cr0, vcpu->arch.cr0_guest_owned_bits,
				field(reading, GUEST_CR0));
	if (!test_bit(VCPU_REG_CR4, cached))
		to->cr4 = merge(to->cr4, vcpu->arch.cr4_guest_owned_bits,
				field(reading, GUEST_CR4));
	if (!test_bit(VCPU_REG_CR3, cached) &&
	    !(field(reading, CPU_BASED_VM_EXEC_CONTROL) & CPU_BASED_CR3_LOAD_EXITING))
		to->cr3 = field(reading, GUEST_CR3);
	to->rflags = vmx->rflags;
	if (!test_bit(VCPU_REG_RFLAGS, cached)) {
		to->rflags = field(reading, GUEST_RFLAGS);
		if (vmx->rmode.vm86_active)
			to->rflags = merge(vmx->rmode.save_rflags,
					   ~(u64)(X86_EFLAGS_IOPL | X86_EFLAGS_VM), to->rflags);
	}
	read_segment(reading, VCPU_SREG_CS, &to->cs);
	read_segment(reading, VCPU_SREG_DS, &to->ds);
	read_segment(reading, VCPU_SREG_ES, &to->es);
	read_segment(reading, VCPU_SREG_FS, &to->fs);
	read_segment(reading, VCPU_SREG_GS, &to->gs);
	read_segment(reading, VCPU_SREG_SS, &to->ss);
	read_segment(reading, VCPU_SREG_TR, &to->tr);
	read_segment(reading, VCPU_SREG_LDTR, &to->ldt);
	to->gdt.base = field(reading, GUEST_GDTR_BASE);
	to->gdt.limit = field(reading, GUEST_GDTR_LIMIT);
	to->idt.base = field(reading, GUEST_IDTR_BASE);
	to->idt.limit = field(reading, GUEST_IDTR_LIMIT);
	to->sysenter_cs = field(reading, GUEST_SYSENTER_CS);
	to->sysenter_esp = field(reading, GUEST_SYSENTER_ESP);
	to->sysenter_eip = field(reading, GUEST_SYSENTER_EIP);
}

/*
 * Runs with interrupts off, on the CPU where the VMCS is active, or on any if it is on none.
 *
 * If another one is current there, the right one becomes so for the reading: that neither enters
 * nor changes either, and who is interrupted finds all as it was. The caller holds vcpu->mutex, so
 * that KVM does not load this VMCS anywhere meanwhile.
 */
static void read_vmcs(void *argument)
{
	struct reading *reading = argument;
	struct loaded_vmcs *loaded = to_vmx(reading->vcpu)->loaded_vmcs;
	int cpu = READ_ONCE(loaded->cpu);
	u64 wanted = __pa(loaded->vmcs), before;

	if (!(native_read_cr4() & X86_CR4_VMXE))
		return;
	before = current_vmcs_address();
	if (before == wanted) {
		read_current_vmcs(reading);
		return;
	}
	/* Active on another CPU, where KVM has loaded it since; or KVM was about to clear it. */
	if (cpu != -1 && cpu != smp_processor_id())
		return;
	/* There KVM may use memory in its place (hyperv.h, kvm_is_using_evmcs()). */
	if (hypervisor_is_type(X86_HYPER_MS_HYPERV))
		return;
	if (!vmptrld(wanted))
		return;
	read_current_vmcs(reading);
	/* As it was: active on no CPU. */
	if (cpu == -1)
		vmclear(wanted);
	/* All ones: none was current, and KVM knows of none. It is active here, so it can be. */
	if (before != ~0ULL && !vmptrld(before))
		pr_err_once("the VMCS that was current cannot be loaded\n");
}

static void read_vmcs_here(struct reading *reading)
{
	unsigned long flags;

	local_irq_save(flags);
	read_vmcs(reading);
	local_irq_restore(flags);
}

void kvm_inspect_read_vmx(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to)
{
	/* The order in which KVM registers them (vmx_setup_user_return_msrs()). */
	enum { SFMASK, LSTAR, CSTAR, EFER, TSC_AUX, STAR };
	struct vcpu_vmx *vmx = to_vmx(vcpu);
	const struct vmx_uret_msr *msrs = vmx->guest_uret_msrs;
	const unsigned long *cached = vcpu->arch.regs_avail;
	struct reading reading = { .vcpu = vcpu, .to = to };
	u64 unused;
	/* As KVM finds out which there are (kvm_probe_user_return_msr()). */
	bool has_tsc_aux = !rdmsrq_safe(MSR_TSC_AUX, &unused);
	int tries;

	to->lacks = 0;
	to->sfmask = msrs[SFMASK].data;
	to->lstar = msrs[LSTAR].data;
	to->cstar = msrs[CSTAR].data;
	to->star = msrs[has_tsc_aux ? STAR : STAR - 1].data;
	to->tsc_aux = has_tsc_aux ? msrs[TSC_AUX].data : 0;
	to->kernel_gs_base = vmx->msr_guest_kernel_gs_base;

	/*
	 * An interrupt on the CPU where KVM has loaded it last. A CPU that goes offline clears what
	 * is active there (vmclear_local_loaded_vmcss()), perhaps just now: then another one does.
	 */
	for (tries = 0; tries < 3 && !reading.ok; tries++) {
		int cpu = READ_ONCE(vmx->loaded_vmcs->cpu);

		if (cpu < 0 || smp_call_function_single(cpu, read_vmcs, &reading, 1))
			read_vmcs_here(&reading);
	}
	if (reading.ok)
		return;

	to->lacks = KVM_INSPECT_LACKS_VMCS;
	if (!test_bit(VCPU_REG_RIP, cached))
		to->lacks |= KVM_INSPECT_LACKS_RIP;
	if (!test_bit(VCPU_REGS_RSP, cached))
		to->lacks |= KVM_INSPECT_LACKS_RSP;
	if (!test_bit(VCPU_REG_CR0, cached))
		to->lacks |= KVM_INSPECT_LACKS_CR0;
	if (!test_bit(VCPU_REG_CR3, cached))
		to->lacks |= KVM_INSPECT_LACKS_CR3;
	if (!test_bit(VCPU_REG_CR4, cached))
		to->lacks |= KVM_INSPECT_LACKS_CR4;
}
