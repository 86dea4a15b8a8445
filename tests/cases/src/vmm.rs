// SPDX-License-Identifier: GPL-2.0

//! A small VMM that knows every byte and every register of its guests.

mod code;
mod forger;
mod intruder;
mod lone;
mod manner;
mod mapping;
mod mode;
mod nested;
mod ring;
mod userfault;
mod vcpu;
mod vm;

pub(crate) use self::{
    intruder::Intruder,
    manner::Manner,
    mapping::{to_usize, Backing, Mapping, HUGE_PAGE},
    mode::{Mode, GDT_LIMIT, IDT_LIMIT},
    userfault::Userfault,
    vcpu::{get_sregs, port_number, Vcpu, Work, CLOCK_FLAGS, CLOCK_GUEST_STOPPED, MMIO_BYTE},
    vm::{Slot, Vm, LOW_MEMORY},
};
