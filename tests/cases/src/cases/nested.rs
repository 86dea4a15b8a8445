// SPDX-License-Identifier: GPL-2.0

//! A guest with a guest of its own.

use std::{thread, time::Duration};

use kvm_inspect_tool::report::State;

use super::{meanwhile::inspect_while, secret, Case};
use crate::{
    inspect::{hex, Inspection},
    vmm::{Mode, Vm, Work},
};

pub(super) const CASES: &[Case] = cases![guest];

/// The freeze finds it in the outer or the inner guest, and both go on. The registers are of the
/// one that ran.
fn guest() {
    let mut vm = Vm::bootable();
    vm.add_vcpu(Mode::Long, Work::Nested);
    vm.add_vcpu(Mode::Long, Work::Count);
    let secret = secret(140, 16);
    vm.write(0x300, &secret);
    vm.start();
    let programs = vm.vcpu(0).nested_programs();
    let hits = vm.hits(0, &[0x300]);
    let mut frozen_in = [0; 2];
    inspect_while(
        Inspection::of_self().patterns(&[hex(&secret)]),
        60,
        || (),
        |report| {
            assert_eq!(report.states(), [State::Parked; 2]);
            assert_eq!(report.hits, hits);
            let rip = report.vcpus[0].general["rip"];
            let program = programs.iter().position(|program| program.contains(&rip));
            let program = program.unwrap_or_else(|| {
                // If KVM cannot go on with it, either, the vCPU's thread reports that, and ends the
                // process.
                thread::sleep(Duration::from_secs(10));
                panic!("{rip:#x} is in neither")
            });
            // The words of the report tell which.
            assert_eq!(report.vcpus[0].nested, program == 1);
            assert!(!report.vcpus[1].nested);
            frozen_in[program] += 1;
        },
    );
    println!(
        "frozen in the outer one {}, in the inner one {} times",
        frozen_in[0], frozen_in[1]
    );
    vm.wait_until_it_goes_on();
    vm.finish();
}
