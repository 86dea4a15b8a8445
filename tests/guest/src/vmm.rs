// SPDX-License-Identifier: GPL-2.0

//! A small VMM that knows every byte and every register of its guests.

mod code;
mod mapping;
mod mode;
mod userfault;
mod vcpu;
mod vm;

pub(crate) use self::{
    mapping::{Backing, Mapping, HUGE_PAGE},
    mode::{Mode, GDT_LIMIT, IDT_LIMIT},
    userfault::Userfault,
    vcpu::{port_number, Vcpu, Work},
    vm::{Slot, Vm, LOW_MEMORY},
};
