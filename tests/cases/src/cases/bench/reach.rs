// SPDX-License-Identifier: GPL-2.0

//! The ways by which a module could get at a guest's page, those included that the module does not
//! have: a module of the tests (`reach.c`) reads the same memory in each way.

use std::fs;

use super::module::{
    in_turns, page, running, show, verdict, Ratio, GIB, GPA, LEAST, MIB, PAGE_LEN, ROUNDS,
};
use crate::{
    inspect::{load_module, unload_module},
    process::{huge_kib, own_pid, page_tables_kib, resident_kib},
    vmm::{Backing, Mapping, Vm},
};

/// The size of the memory that is read.
const SIZE: u64 = 64 * MIB;

/// The module's own way, the first in each comparison.
const LINEAR: &str = "linear";

/// Ways that work with any page.
const GENERAL: [&str; 5] = [
    LINEAR,
    "vmap",
    "copy",
    "kvm_read_guest_page",
    "copy_from_user_nofault",
];

/// The way that fails, with a warning, where there is a huge page.
const APPLY: &str = "apply_to_page_range";

/// Compares the times, and what is left behind in memory that nobody has touched.
pub(super) fn reach() -> bool {
    let mut vm = running();
    let small = vm.add_memory(GPA, SIZE, Backing::Anonymous);
    let huge = vm.add_memory(GPA + GIB, SIZE, Backing::TransparentHuge);
    let in_small = fill(&small);
    let in_huge = fill(&huge);
    assert_eq!(huge_kib(huge.address()) << 10, SIZE, "it has huge pages");

    let reach = Reach::load(&vm);
    let mut small_ways = GENERAL.to_vec();
    small_ways.push(APPLY);
    let results = [
        reach.compare("pages of 4 KiB", &small_ways, GPA, &small, &in_small),
        reach.compare("huge pages", &GENERAL, GPA + GIB, &huge, &in_huge),
        absent(&mut vm, &reach),
    ];
    drop(reach);
    vm.finish();
    results.iter().all(|passed| *passed)
}

/// What reading memory that nobody has touched leaves behind. The module's way must leave nothing.
fn absent(vm: &mut Vm, reach: &Reach) -> bool {
    /// The growth that has other causes.
    const NOISE_KIB: u64 = 64;

    println!(
        "What the VMM has more of after {} MiB of an untouched memfd are read, in KiB:",
        SIZE / MIB
    );
    let mut passed = true;
    for (number, way) in (2..).zip(GENERAL.iter().chain([&APPLY])) {
        let gpa = GPA + number * GIB;
        let memory = vm.add_memory(gpa, SIZE, Backing::Memfd);
        let before = (resident_kib(own_pid()), page_tables_kib());
        reach.read(way, gpa, &memory);
        let resident = resident_kib(own_pid()).saturating_sub(before.0);
        let tables = page_tables_kib().saturating_sub(before.1);
        let goal = if *way == LINEAR {
            let is_clean = resident.max(tables) < NOISE_KIB;
            passed &= is_clean;
            format!(", goal: less than {NOISE_KIB}{}", verdict(is_clean))
        } else {
            String::new()
        };
        println!("  {way:<24} pages {resident:>5}, page tables {tables:>3}{goal}");
    }
    passed
}

/// What was read: the number of pages, and a sum that also depends on their order.
#[derive(Debug, PartialEq)]
struct Read {
    pages: u64,
    sum: u64,
}

/// Fills each page with other bytes, and returns what reading all of them gives.
fn fill(memory: &Mapping) -> Read {
    let mut page = page();
    let mut read = Read { pages: 0, sum: 0 };
    for offset in (0..memory.len()).step_by(PAGE_LEN) {
        page[..8].copy_from_slice(&offset.to_le_bytes());
        memory.write(offset, &page);
        let words = page.chunks_exact(8).map(|word| {
            let word = word.try_into().expect("it has eight bytes");
            u64::from_le_bytes(word)
        });
        let page_sum = words.fold(0, u64::wrapping_add);
        read.sum = read.sum.wrapping_mul(31).wrapping_add(page_sum);
        read.pages += 1;
    }
    read
}

/// The test's own module, loaded.
struct Reach;

/// One reading.
struct Result {
    read: Read,
    nanoseconds: u64,
}

impl Reach {
    fn load(vm: &Vm) -> Self {
        load_module("/modules/reach.ko", &format!("fd={}", vm.fd()))
            .expect("the test's own module can be loaded");
        Self
    }

    /// Reads memory in each way, in turns. Of those that work with any page the first must be the
    /// fastest.
    fn compare(&self, kind: &str, ways: &[&str], gpa: u64, memory: &Mapping, holds: &Read) -> bool {
        let times = in_turns(ways.len(), ROUNDS, |way| {
            let result = self.read(ways[way], gpa, memory);
            assert_eq!(result.read, *holds, "{} reads what is there", ways[way]);
            result.nanoseconds
        });
        println!("Ways to reach {kind}, by one thread; time against the first:");
        let mut passed = true;
        for (way, times_of) in ways.iter().zip(&times) {
            let ratio = Ratio::new(times_of, &times[0]);
            let goal = if [LINEAR, APPLY].contains(way) {
                String::new()
            } else {
                format!("at least {LEAST}")
            };
            passed &= show(way, ratio, goal.is_empty() || ratio.middle >= LEAST, &goal);
        }
        passed
    }

    /// Reads memory of this process, which the VM has at `gpa`.
    fn read(&self, way: &str, gpa: u64, memory: &Mapping) -> Result {
        self.set("address", &memory.address().to_string());
        self.set("gpa", &gpa.to_string());
        self.set("size", &memory.len().to_string());
        self.set("way", way);
        Result {
            read: Read {
                pages: self.get("pages_read"),
                sum: self.get("sum"),
            },
            nanoseconds: self.get("nanoseconds"),
        }
    }

    #[allow(clippy::unused_self)] // It proves that the module is loaded.
    fn set(&self, name: &str, value: &str) {
        fs::write(parameter(name), value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
    }

    #[allow(clippy::unused_self)] // As above.
    fn get(&self, name: &str) -> u64 {
        let text = fs::read_to_string(parameter(name));
        let text = text.unwrap_or_else(|error| panic!("{name}: {error}"));
        text.trim().parse().expect("it is a number")
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        unload_module("reach");
    }
}

fn parameter(name: &str) -> String {
    format!("/sys/module/reach/parameters/{name}")
}
