// SPDX-License-Identifier: GPL-2.0

//! What the device costs: an inspection of registers against loading the module for it, and copies
//! against those of `memcpy`.

use std::time::{Duration, Instant};

use kvm_inspect_pure::uapi;

use crate::{
    cases::times,
    device::{new, size_of_u32, zeroed, Buffer, Device, Module, FREEZE_TIMEOUT_MS},
    inspect::Inspection,
    process::PAGE,
    vmm::{Backing, Vm, Work},
};

const MIB: u64 = 1 << 20;

/// How much is copied.
const SIZE: u64 = 64 * MIB;

/// How often inspections by the device are to be as many as those by insmod and rmmod.
const GOAL_RATE: f64 = 50.0;

/// How fast a copy by one thread is to be, of a copy by `memcpy`.
const GOAL_COPY: f64 = 0.8;

/// Compares alternating parts of one run.
pub(super) fn device() {
    let rate = registers();
    let copy = copies();
    let is_met = rate >= GOAL_RATE && copy >= GOAL_COPY;
    println!("bench-device: {}", if is_met { "PASS" } else { "FAIL" });
}

/// Returns how many times as many inspections of registers there are in a second.
fn registers() -> f64 {
    let mut vm = Vm::running(Work::Count);
    let mut ratios = Vec::new();
    for _ in 0..times(15) {
        let inspection = Inspection::of_self();
        let begun = Instant::now();
        inspection.report_by_insmod();
        let by_insmod = begun.elapsed();
        let module = Module::load();
        let device = module.session(&vm);
        // The first one arms the probes.
        inspect(&device);
        let begun = Instant::now();
        for _ in 0..10 {
            inspect(&device);
        }
        ratios.push(by_insmod.div_duration_f64(begun.elapsed() / 10));
    }
    vm.finish();
    print(
        "inspections of registers per second, against insmod and rmmod",
        ratios,
        GOAL_RATE,
    )
}

fn inspect(device: &Device) {
    let mut vcpus = zeroed::<uapi::Vcpu>(4);
    let mut list = uapi::Vcpus {
        vcpus: vcpus.as_mut_ptr() as u64,
        vcpu_size: size_of_u32::<uapi::Vcpu>(),
        room: 4,
        freeze_timeout_ms: FREEZE_TIMEOUT_MS,
        ..new()
    };
    device.must(uapi::VCPUS, &mut list);
    assert_eq!(list.count, 1);
}

/// Returns the speed of a copy by one thread, of one by `memcpy`.
fn copies() -> f64 {
    let module = Module::load();
    let mut vm = Vm::running(Work::Halt);
    let memory = vm.add_memory(MIB, SIZE, Backing::Anonymous);
    memory.touch_all();
    let device = module.session(&vm);
    let pages = SIZE / PAGE;
    let buffer = Buffer::new(usize::try_from(pages).expect("it is small"));
    let ranges = [uapi::Pages { gpa: MIB, pages }];
    let by_device = || {
        let mut copy = uapi::Copy {
            ranges: ranges.as_ptr() as u64,
            range_count: 1,
            buffer: buffer.address(),
            threads: 1,
            ..new()
        };
        let begun = Instant::now();
        device.must(uapi::COPY, &mut copy);
        let took = begun.elapsed();
        assert_eq!(copy.copied, pages);
        took
    };
    let by_memcpy = || {
        let begun = Instant::now();
        copy_by_words(memory.address(), buffer.address(), SIZE);
        begun.elapsed()
    };
    by_device();
    let mut ratios = Vec::new();
    for _ in 0..times(15) {
        let before: Duration = by_memcpy();
        let copy = by_device();
        let after = by_memcpy();
        ratios.push(((before + after) / 2).div_duration_f64(copy));
    }
    vm.finish();
    print(
        "copy by one thread, against one of the same pages word by word",
        ratios,
        GOAL_COPY,
    )
}

/// Copies as the kernel's `memcpy` does, which has no vector registers: word by word.
fn copy_by_words(from: u64, to: u64, size: u64) {
    const WORDS: usize = 4;

    let (from, to) = (from as *const [u64; WORDS], to as *mut [u64; WORDS]);
    let count = usize::try_from(size).expect("it is small") / size_of::<[u64; WORDS]>();
    for index in 0..count {
        for word in 0..WORDS {
            // SAFETY: Both are that large, and the guest halts. Volatile, or the compiler would
            // take vector registers after all.
            unsafe {
                let from = from.add(index).cast::<u64>().add(word);
                to.add(index)
                    .cast::<u64>()
                    .add(word)
                    .write_volatile(from.read_volatile());
            }
        }
    }
}

/// Prints ratios, and returns the median.
fn print(what: &str, mut ratios: Vec<f64>, goal: f64) -> f64 {
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
    println!(
        "{what}: {:.2} ({:.2} to {:.2} in half of {}), goal: at least {goal}",
        at(2),
        at(1),
        at(3),
        ratios.len()
    );
    at(2)
}
