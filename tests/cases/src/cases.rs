// SPDX-License-Identifier: GPL-2.0

//! The cases. Each runs in a process of its own in a VM and panics if something is wrong. It must
//! fail if the module does nothing.

/// Makes a list of cases from functions of the module around it. A case is named after both:
/// `load_unload` in `life` is `life_load_unload`. Methods of [`Case`] may follow: `.within(600)`.
macro_rules! cases {
    ($($name:ident $(.$method:ident($($argument:expr)?))*),+ $(,)?) => {
        &[$(
            Case::new(concat!(module_path!(), "::", stringify!($name)), $name)
                $(.$method($($argument)?))*
        ),+]
    };
}

/// Makes a list of roles, named after their functions.
macro_rules! roles {
    ($($run:ident),+ $(,)?) => {
        &[$(Role { name: stringify!($run), run: $run }),+]
    };
}

mod bench;
mod device;
mod faults;
mod find;
mod fuzz;
mod invisible;
mod kinds;
mod life;
mod limits;
mod meanwhile;
mod memory;
mod nested;
mod patterns;
mod refuse;
mod registers;
mod report;
mod search;
mod sessions;
mod slots;
mod threads;
mod vcpus;
mod vmms;

use std::{
    hint, thread,
    time::{Duration, Instant, SystemTime},
};

use cases::protocol::{CaseInfo, Needs, VmNeeded};

use crate::{
    init::{repeat_divisor, scale},
    role::Role,
};

/// The usual time limit of a case. It takes a few seconds on a fast machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// The path of its function. Its name is made of that.
    path: &'static str,
    /// The function, which runs in a process of its own.
    pub(crate) run: fn(),
    /// Its time limit, as [`Patience`](crate::patience::Patience) counts it.
    pub(crate) limit: Duration,
    /// Whether KVM must be loaded before it begins.
    pub(crate) needs_kvm: bool,
    /// What else it needs.
    pub(crate) needs: Needs,
}

impl Case {
    /// Creates a case from a function with this path.
    const fn new(path: &'static str, run: fn()) -> Self {
        Self {
            path,
            run,
            limit: LIMIT,
            needs_kvm: true,
            needs: Needs::NOTHING,
        }
    }

    /// Returns its name: the names of its module and its function.
    pub(crate) fn name(&self) -> String {
        let path = self.path.strip_prefix(concat!(module_path!(), "::"));
        path.unwrap_or(self.path).replace("::", "_")
    }

    /// Returns what the harness knows of it.
    pub(crate) fn info(&self) -> CaseInfo {
        CaseInfo {
            name: self.name(),
            seconds: self.limit.as_secs(),
            needs: self.needs,
        }
    }

    /// Sets another time limit.
    const fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Lets it begin without KVM, as the first case in a VM.
    const fn without_kvm(mut self) -> Self {
        self.needs_kvm = false;
        self.alone()
    }

    /// Runs it on the debug kernel only.
    const fn with_debug(mut self) -> Self {
        self.needs.debug_kernel = true;
        self
    }

    /// Runs it on the stock kernel only. The debug kernel lacks something, or is slow and would
    /// find nothing more than in another case.
    const fn with_stock(mut self) -> Self {
        self.needs.stock_kernel = true;
        self
    }

    /// Lets it make allocations fail, on the debug kernel.
    const fn failing_allocations(mut self) -> Self {
        self.needs.failing_allocations = true;
        self.with_debug()
    }

    /// Gives it a VM whose memory is in two NUMA nodes.
    const fn with_two_nodes(mut self) -> Self {
        self.needs.vm = VmNeeded::TwoNodes;
        self
    }

    /// Runs it in a VM with others like it: it leaves behind what would disturb the rest.
    const fn alone(mut self) -> Self {
        self.needs.vm = VmNeeded::Own;
        self
    }
}

/// Returns all cases.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    [
        kinds::CASES,
        device::CASES,
        sessions::CASES,
        fuzz::CASES,
        memory::CASES,
        slots::CASES,
        patterns::CASES,
        limits::CASES,
        search::CASES,
        search::pauses::CASES,
        search::seams::CASES,
        search::kinds::CASES,
        vcpus::CASES,
        invisible::CASES,
        registers::CASES,
        report::CASES,
        find::CASES,
        refuse::CASES,
        meanwhile::CASES,
        threads::CASES,
        vmms::CASES,
        nested::CASES,
        faults::CASES,
        life::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Returns the case, or the measurement, with this name.
pub(crate) fn find(name: &str) -> Case {
    let measurements = bench::CASES.iter().chain(threads::MEASUREMENTS).copied();
    let case = all().chain(measurements).find(|case| case.name() == name);
    case.unwrap_or_else(|| panic!("there is no case {name}"))
}

/// Returns the roles that other processes play in the cases.
pub(crate) fn roles() -> impl Iterator<Item = &'static Role> {
    [
        memory::ROLES,
        vcpus::ROLES,
        find::ROLES,
        threads::ROLES,
        vmms::ROLES,
        life::ROLES,
        sessions::ROLES,
    ]
    .into_iter()
    .flatten()
}

/// Returns how often to repeat what a short run on a fast machine does `count` times.
fn times(count: u32) -> u32 {
    count.saturating_mul(scale()).div_ceil(repeat_divisor())
}

/// Returns all of some similar things, but fewer on a slow machine.
fn some<T>(all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    all.into_iter()
        .step_by(usize::try_from(repeat_divisor()).expect("small"))
}

/// Returns bytes that are nowhere by accident. Another number gives others.
fn secret(number: u64, len: usize) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0xd134_2543_de82_ef95));
    let words = std::iter::repeat_with(|| random.next().to_le_bytes());
    words.flatten().take(len).collect()
}

/// A random number generator (`SplitMix64`).
struct Random(u64);

impl Random {
    /// Creates one with another seed each time.
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = now.map_or(0, |time| u64::from(time.subsec_nanos()) ^ time.as_secs());
        println!("random numbers from {seed:#x}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Returns a number less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns a random part of a time.
    fn some_of(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).expect("not long");
        Duration::from_micros(self.below(micros + 1))
    }

    /// Sleeps for a random time of `most` or less.
    fn pause(&mut self, most: Duration) {
        thread::sleep(self.some_of(most));
    }

    /// Spins for a random time of `most` or less.
    fn spin(&mut self, most: Duration) {
        let (since, time) = (Instant::now(), self.some_of(most));
        while since.elapsed() < time {
            hint::spin_loop();
        }
    }
}
