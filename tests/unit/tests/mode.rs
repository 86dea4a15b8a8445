// SPDX-License-Identifier: GPL-2.0

//! The modes of a vCPU.

use kvm_inspect_pure::x86::mode::{
    Mode,
    Paging, //
};

const PE: u64 = 1;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const VM: u64 = 1 << 17;

#[test]
fn modes() {
    for (cr0, efer, rflags, cs_long, mode, name) in [
        // After a reset.
        (0x6000_0010, 0, 0x2, false, Mode::Real, "real"),
        // The flag VM has no meaning in real mode.
        (0, 0, VM, false, Mode::Real, "real"),
        (PE, 0, 0x2, false, Mode::Protected, "protected"),
        (PE | PG, 0, 0x2, false, Mode::Protected, "protected"),
        // Long mode is enabled, but not yet active.
        (PE, LME, 0x2, true, Mode::Protected, "protected"),
        (PE | PG, 0, VM, false, Mode::Vm86, "vm86"),
        (PE | PG, LME | LMA, 0x2, false, Mode::Compat, "compat"),
        (PE | PG, LME | LMA, 0x2, true, Mode::Long, "long"),
        (PE | PG, LME | LMA, VM, true, Mode::Long, "long"),
    ] {
        let found = Mode::new(cr0, efer, rflags, cs_long);
        assert_eq!(found, mode, "{cr0:#x} {efer:#x} {rflags:#x} {cs_long}");
        assert_eq!(found.to_string(), name);
    }
}

#[test]
fn paging() {
    for (cr0, cr4, efer, paging, name) in [
        (0x6000_0010, 0, 0, Paging::None, "none"),
        // All is ready for long mode, but for the last bit.
        (PE, PAE, LME, Paging::None, "none"),
        (PE | PG, 0, 0, Paging::TwoLevels, "2"),
        (PE | PG, PAE, 0, Paging::ThreeLevels, "3"),
        (PE | PG, PAE | LA57, 0, Paging::ThreeLevels, "3"),
        (PE | PG, PAE, LME | LMA, Paging::FourLevels, "4"),
        (PE | PG, PAE | LA57, LME | LMA, Paging::FiveLevels, "5"),
    ] {
        let found = Paging::new(cr0, cr4, efer);
        assert_eq!(found, paging, "{cr0:#x} {cr4:#x} {efer:#x}");
        assert_eq!(found.to_string(), name);
    }
}
