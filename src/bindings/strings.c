// SPDX-License-Identifier: GPL-2.0
/* The string parameters: the Rust module! macro has integers and bool only. */

#include <linux/module.h>
#include <linux/moduleparam.h>

#include "helpers.h"

char *kvm_inspect_patterns[KVM_INSPECT_MAX_LIST];
unsigned int kvm_inspect_nr_patterns;
module_param_array_named(pattern, kvm_inspect_patterns, charp,
			 &kvm_inspect_nr_patterns, 0);
MODULE_PARM_DESC(pattern,
		 "What to search for: a list of text:..., itext:..., utf16:..., hex:48 8b ?? 4?");

char *kvm_inspect_ranges[KVM_INSPECT_MAX_LIST];
unsigned int kvm_inspect_nr_ranges;
module_param_array_named(range, kvm_inspect_ranges, charp,
			 &kvm_inspect_nr_ranges, 0);
MODULE_PARM_DESC(range,
		 "Guest-physical addresses to search: a list of FIRST-LAST or "
		 "FIRST+SIZE (default: all)");

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
