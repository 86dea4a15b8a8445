// SPDX-License-Identifier: GPL-2.0

//! A guest with a guest of its own, without the module.

use std::{
    ffi::{c_int, c_void},
    thread,
    time::{Duration, Instant},
};

use vmm_sys_util::signal::{register_signal_handler, SIGRTMIN};

use crate::cases::times;
use crate::vmm::{Manner, Mode, Vcpu, Vm, Work};

/// How many signals each vCPU's thread gets in a short run.
const SIGNALS: u32 = 20_000;

/// The time between two signals. Inspections that follow each other at once have more.
const PAUSE: Duration = Duration::from_micros(500);

/// Disturbs the threads of a VM as in `nested_guest`, but with signals, and reports how often a
/// guest is lost. The module cannot be the cause.
pub(super) fn alone() {
    extern "C" fn nothing(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

    let signal = SIGRTMIN() + 2;
    register_signal_handler(signal, nothing).expect("the signal is valid");
    let count = times(SIGNALS);
    let begin = Instant::now();
    let (mut sent, mut taken, mut lost) = (0, 0, 0);
    while sent < count {
        let mut vm = Vm::bootable();
        for work in [Work::Nested, Work::Count] {
            let vcpu = vm.add_vcpu(Mode::Long, work);
            vcpu.set_manner(Manner::Handled);
            vcpu.let_guest_be_lost();
            vcpu.start();
        }
        while sent < count && !vm.vcpus().iter().any(Vcpu::has_lost_guest) {
            for vcpu in &*vm.vcpus() {
                // They are queued, and the queue may be full.
                vcpu.send_signal(signal);
            }
            sent += 1;
            thread::sleep(PAUSE);
        }
        vm.stop();
        for vcpu in vm.vcpus() {
            taken += vcpu.signals_taken();
            if vcpu.has_lost_guest() {
                lost += 1;
                println!("after {sent} signals: {}", vcpu.describe_loss());
            }
        }
        if sent == count && !vm.vcpus().iter().any(Vcpu::has_lost_guest) {
            vm.finish();
        }
    }
    println!(
        "no module, {sent} signals to each of 2 vCPUs, {taken} ended KVM_RUN, in {:.0} s: \
         {lost} guests lost",
        begin.elapsed().as_secs_f64()
    );
    println!("nested-alone: {}", if lost == 0 { "PASS" } else { "FAIL" });
}
