// SPDX-License-Identifier: GPL-2.0
/* What only KVM's part for AMD knows; see helpers.h. All of it is in memory. */

#include "svm/svm.h"

#include "helpers.h"

/* As ____sev_guest(), which is true however the guest was made (sev.c): by KVM_SEV_INIT and its
 * kin, as a mirror, or by migration. */
bool kvm_inspect_is_sev(struct kvm *kvm)
{
#ifdef CONFIG_KVM_AMD_SEV
	return boot_cpu_has(X86_FEATURE_SVM) && READ_ONCE(to_kvm_sev_info(kvm)->active);
#else
	return false;
#endif
}

/* As ____sev_es_guest(). */
bool kvm_inspect_is_sev_es(struct kvm *kvm)
{
#ifdef CONFIG_KVM_AMD_SEV
	return boot_cpu_has(X86_FEATURE_SVM) && READ_ONCE(to_kvm_sev_info(kvm)->es_active);
#else
	return false;
#endif
}

/*
 * Whether @kvm was a SEV guest that has moved to another VM. What it leaves is not marked any more
 * (sev_migrate_from()), but each SEV guest has a set of the CPUs that it ran on until it is
 * destroyed.
 */
bool kvm_inspect_was_sev(struct kvm *kvm)
{
#ifdef CONFIG_KVM_AMD_SEV
	const struct kvm_sev_info *info = to_kvm_sev_info(kvm);

	if (!boot_cpu_has(X86_FEATURE_SVM))
		return false;
#ifdef CONFIG_CPUMASK_OFFSTACK
	return READ_ONCE(info->have_run_cpus);
#else
	return !cpumask_empty(info->have_run_cpus);
#endif
#else
	return false;
#endif
}

bool kvm_inspect_svm_has_this_layout(struct kvm_vcpu *vcpu)
{
	struct vcpu_svm *svm = to_svm(vcpu);
	struct kvm_vmcb_info *info = READ_ONCE(svm->current_vmcb);

	return (info == &svm->vmcb01 || info == &svm->nested.vmcb02) &&
	       virt_addr_valid(svm->vmcb01.ptr) &&
	       __sme_clr(svm->vmcb01.pa) == __pa(svm->vmcb01.ptr);
}

/* As svm_get_segment() makes it. */
static void read_segment(const struct vmcb_seg *from, struct kvm_segment *to)
{
	memset(to, 0, sizeof(*to));
	to->base = from->base;
	to->limit = from->limit;
	to->selector = from->selector;
	to->type = from->attrib & SVM_SELECTOR_TYPE_MASK;
	to->s = (from->attrib >> SVM_SELECTOR_S_SHIFT) & 1;
	to->dpl = (from->attrib >> SVM_SELECTOR_DPL_SHIFT) & 3;
	to->present = (from->attrib >> SVM_SELECTOR_P_SHIFT) & 1;
	to->avl = (from->attrib >> SVM_SELECTOR_AVL_SHIFT) & 1;
	to->l = (from->attrib >> SVM_SELECTOR_L_SHIFT) & 1;
	to->db = (from->attrib >> SVM_SELECTOR_DB_SHIFT) & 1;
	to->g = from->limit > 0xfffff;
	to->unusable = !to->present;
}

void kvm_inspect_read_svm(struct kvm_vcpu *vcpu, struct kvm_inspect_registers *to)
{
	struct vcpu_svm *svm = to_svm(vcpu);
	const struct vmcb_save_area *save = &svm->vmcb->save;
	/* While a nested guest runs, these are still where the outer one has them (svm_seg()). */
	const struct vmcb_save_area *outer = &svm->vmcb01.ptr->save;
	struct kvm_segment *data[] = { &to->ds, &to->es, &to->fs, &to->gs };
	bool is_intel = guest_cpuid_is_intel_compatible(vcpu);
	int i;

	to->rflags = save->rflags;
	if (svm->nmi_singlestep) {
		if (!(svm->nmi_singlestep_guest_rflags & X86_EFLAGS_TF))
			to->rflags &= ~X86_EFLAGS_TF;
		if (!(svm->nmi_singlestep_guest_rflags & X86_EFLAGS_RF))
			to->rflags &= ~X86_EFLAGS_RF;
	}

	read_segment(&save->cs, &to->cs);
	read_segment(&save->ds, &to->ds);
	read_segment(&save->es, &to->es);
	read_segment(&outer->fs, &to->fs);
	read_segment(&outer->gs, &to->gs);
	read_segment(&save->ss, &to->ss);
	read_segment(&outer->tr, &to->tr);
	read_segment(&outer->ldtr, &to->ldt);
	to->tr.type |= 2;
	for (i = 0; i < ARRAY_SIZE(data); i++) {
		if (!data[i]->unusable)
			data[i]->type |= 1;
	}
	if (to->ss.unusable)
		to->ss.db = 0;
	to->ss.dpl = save->cpl;

	to->gdt.base = save->gdtr.base;
	to->gdt.limit = save->gdtr.limit;
	to->idt.base = save->idtr.base;
	to->idt.limit = save->idtr.limit;

	to->kernel_gs_base = outer->kernel_gs_base;
	to->star = outer->star;
	to->lstar = outer->lstar;
	to->cstar = outer->cstar;
	to->sfmask = outer->sfmask;
	to->sysenter_cs = outer->sysenter_cs;
	to->sysenter_esp = outer->sysenter_esp;
	to->sysenter_eip = (u32)outer->sysenter_eip;
	if (is_intel) {
		to->sysenter_esp |= (u64)svm->sysenter_esp_hi << 32;
		to->sysenter_eip |= (u64)svm->sysenter_eip_hi << 32;
	}
	to->tsc_aux = svm->tsc_aux;
	if (to->nested) {
		/* VMRUN has put these into the VMCB only (nested_vmcb02_prepare_save()). */
		if (!(vcpu->guest_debug & KVM_GUESTDBG_USE_HW_BP))
			to->dr7 = save->dr7;
		if (l2_has_separate_pat(vcpu))
			to->pat = save->g_pat;
	}
	to->lacks = 0;
}
