// SPDX-License-Identifier: GPL-2.0

//! The names of the kernel's functions.
//!
//! C header: [`include/linux/kallsyms.h`](srctree/include/linux/kallsyms.h)

use crate::bindings;

/// `KSYM_SYMBOL_LEN`.
const SYMBOL_LEN: usize = bindings::KVM_INSPECT_SYMBOL_LEN as usize;

/// The name of what is at an address, as `sprint_symbol` gives it:
/// `kvm_vm_ioctl+0x0/0x1230 [kvm]`.
pub(crate) struct Symbol([u8; SYMBOL_LEN]);

impl Symbol {
    /// Looks up an address. This takes some microseconds.
    pub(crate) fn at(address: usize) -> Self {
        let mut this = Self([0; SYMBOL_LEN]);
        // SAFETY: `sprint_symbol` writes at most `KSYM_SYMBOL_LEN` bytes; the address is only
        // looked up.
        unsafe { bindings::sprint_symbol(this.0.as_mut_ptr(), address) };
        this
    }

    /// Returns whether a function of this name begins there.
    pub(crate) fn is(&self, name: &[u8]) -> bool {
        let rest = self.0.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(b"+0x0/"))
    }

    /// Returns whether it is in a module other than `module`, written as `[kvm]`. Others may have
    /// functions of the same names.
    pub(crate) fn is_in_other_module(&self, module: &[u8]) -> bool {
        let is_module = self.0.contains(&b'[');
        is_module
            && !self
                .0
                .windows(module.len().max(1))
                .any(|part| part == module)
    }
}
