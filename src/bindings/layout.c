// SPDX-License-Identifier: GPL-2.0
/*
 * The layouts that the Rust code relies on, as gcc sees them. Kbuild turns the
 * assembly of this file into static assertions (bindings.rs, `mod layout`).
 */
#include <linux/ftrace.h>
#include <linux/kbuild.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/rcupdate_wait.h>

#include "../../include/uapi/kvm_inspect.h"
#include "helpers.h"

/* Names must be plain identifiers: `offset_<struct>_at_<field>` is taken apart by Kbuild. */
#define FIELD(type, field) \
	DEFINE(offset_##type##_at_##field, offsetof(struct type, field))
#define SIZE(type) DEFINE(size_##type, sizeof(struct type))

int main(void)
{
	FIELD(address_space, i_pages);
	FIELD(file, f_mapping);
	FIELD(file, f_inode);
	FIELD(file, f_op);
	FIELD(file, private_data);
	FIELD(file_operations, unlocked_ioctl);

	FIELD(inode, i_private);
	FIELD(kprobe, symbol_name);
	FIELD(kprobe, pre_handler);
	FIELD(kprobe, addr);
	FIELD(kprobe, flags);
	SIZE(kprobe);
	FIELD(ftrace_ops, func);
	FIELD(ftrace_ops, flags);
	SIZE(ftrace_ops);
	SIZE(rcu_synchronize);

	FIELD(kvm, mm);
	FIELD(kvm, srcu);

	FIELD(kvm_vcpu, kvm);
	FIELD(kvm_vcpu, vcpu_id);
	FIELD(kvm_vcpu, vcpu_idx);
	FIELD(kvm_vcpu, mutex);
	FIELD(kvm_vcpu, run);
	FIELD(kvm_inspect_registers, cs);
	FIELD(kvm_inspect_registers, unfinished);
	SIZE(kvm_inspect_registers);

	FIELD(kvm_memslots, generation);
	FIELD(kvm_memslots, gfn_tree);
	FIELD(kvm_memslots, node_idx);
	FIELD(kvm_memory_slot, gfn_node);
	FIELD(kvm_memory_slot, base_gfn);
	FIELD(kvm_memory_slot, npages);
	FIELD(kvm_memory_slot, userspace_addr);
	FIELD(kvm_memory_slot, flags);
	FIELD(kvm_memory_slot, id);
	FIELD(kvm_memory_slot, gmem);

	FIELD(kvm_run, immediate_exit__unsafe);
	FIELD(kvm_run, exit_reason);
	SIZE(kvm_segment);


	SIZE(kvm_inspect_attach);
	SIZE(kvm_inspect_slot);
	SIZE(kvm_inspect_slots);
	SIZE(kvm_inspect_segment);
	SIZE(kvm_inspect_table);
	SIZE(kvm_inspect_vcpu);
	SIZE(kvm_inspect_vcpus);
	SIZE(kvm_inspect_extent);
	SIZE(kvm_inspect_present);
	SIZE(kvm_inspect_pages);
	SIZE(kvm_inspect_copy);
	SIZE(kvm_inspect_pattern);
	SIZE(kvm_inspect_span);
	SIZE(kvm_inspect_search);
	SIZE(kvm_inspect_hit);
	SIZE(kvm_inspect_hits);
	SIZE(kvm_inspect_uncovered);
	SIZE(kvm_inspect_uncovereds);
	SIZE(kvm_inspect_hold);
	SIZE(kvm_inspect_release);
	SIZE(kvm_inspect_progress);
	SIZE(kvm_inspect_explain);
	return 0;
}
