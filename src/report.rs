// SPDX-License-Identifier: GPL-2.0

//! The report, in the kernel log: one fact a line, `key=value` (`docs/report.md`).
//!
//! It is written when the guest runs again: a slow console must not prolong a pause.

use kernel::{
    fmt,
    page::PAGE_SHIFT,
    prelude::*,
    time::Delta, //
};

use crate::{
    freeze::{
        FrozenVcpu,
        VcpuState, //
    },
    kvm::{
        Memslot,
        Register,
        Registers,
        FLAG_NAMES, //
    },
    memory::{
        Figures,
        Findings,
        Hit,
        Search, //
    },
    mode::{
        Mode,
        Paging, //
    },
    parameters::Wanted,
    process, //
};

/// The most lines about memory that is not covered in one instant.
const MOST_UNCOVERED: u32 = 64;

/// Says in the kernel log what is wrong and what to do; gives the error number for it.
macro_rules! refuse {
    ($errno:expr, $($text:tt)*) => {{
        ::kernel::prelude::pr_err!("error: {}\n", ::kernel::prelude::fmt!($($text)*));
        $errno
    }};
}
pub(crate) use refuse;

/// Says so if there is not enough memory, of which nothing has been said where it was lacking.
pub(crate) fn explain_memory(error: Error) -> Error {
    if error == ENOMEM {
        refuse!(
            error,
            "the kernel has no memory left; free some, and try again"
        )
    } else {
        error
    }
}

/// All that one inspection of one VM has brought to light.
pub(crate) struct Report<'a> {
    /// The VMM's process number.
    pub(crate) pid: i32,
    /// The VM's file descriptor in the VMM, if it still has one.
    pub(crate) vm_fd: Option<u32>,
    /// The vCPUs, in the order of their creation.
    pub(crate) vcpus: &'a [FrozenVcpu],
    /// The memory, and what was found in it.
    pub(crate) search: &'a Search,
    /// What was wanted.
    pub(crate) wanted: &'a Wanted,
    /// How it ended.
    pub(crate) result: &'static str,
    /// How long it took until all vCPUs stood for the first time.
    pub(crate) freeze: Delta,
    /// How long the guest was kept from running, the freezes included.
    pub(crate) pauses: Pauses,
}

/// The times for which a guest was kept from running.
#[derive(Clone, Copy)]
pub(crate) struct Pauses {
    /// How many there were.
    pub(crate) count: u32,
    /// The last one.
    pub(crate) last: Delta,
    /// The longest one.
    pub(crate) longest: Delta,
    /// All of them.
    pub(crate) all: Delta,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            count: 0,
            last: Delta::ZERO,
            longest: Delta::ZERO,
            all: Delta::ZERO,
        }
    }
}

impl Pauses {
    /// Counts one more.
    pub(crate) fn add(&mut self, pause: Delta) {
        self.count = self.count.saturating_add(1);
        self.last = pause;
        self.longest = self.longest.max(pause);
        self.all += pause;
    }
}

impl Report<'_> {
    /// Writes the report; ends it early, without its last line, if `stop` says so.
    pub(crate) fn print(&self, stop: impl Fn() -> bool) {
        let stop = || {
            // There may be very many lines, and consoles are slow.
            process::yield_cpu();
            stop()
        };
        pr_info!(
            "vm pid={} fd={} vcpus={} slots={}\n",
            self.pid,
            OrNone(self.vm_fd),
            self.vcpus.len(),
            self.slots().len()
        );
        for vcpu in self.vcpus {
            print_vcpu(vcpu);
        }
        let printed = self
            .search
            .with_findings(|findings, _| self.print_findings(findings, stop));
        if printed {
            let uncovered = self.print_uncovered();
            self.search
                .with_findings(|findings, figures| self.print_done(findings, figures, uncovered));
        }
    }

    fn slots(&self) -> &[Memslot] {
        self.search.map().slots()
    }

    /// Says whether all was printed.
    fn print_findings(&self, findings: &Findings, stop: impl Fn() -> bool) -> bool {
        for (slot, present) in self.slots().iter().zip(&findings.present) {
            if stop() {
                return false;
            }
            pr_info!(
                "slot as={} id={} gpa={:#x}-{:#x} hva={:#x}-{:#x} pages={} present={} flags={}\n",
                slot.address_space,
                slot.id,
                slot.gpa,
                slot.last_gpa(),
                slot.hva,
                slot.last_hva(),
                slot.pages,
                present,
                Flags(slot.flags)
            );
        }
        for (hit, bytes) in findings.hits.iter() {
            if stop() {
                return false;
            }
            self.print_hit(hit, bytes);
        }
        self.print_left(findings);
        true
    }

    fn print_hit(&self, hit: &Hit, bytes: &[u8]) {
        let Some(slot) = self.slots().get(hit.slot) else {
            return;
        };
        pr_info!(
            "hit pattern={} as={} slot={} gpa={:#x} hva={:#x}{}\n",
            hit.pattern,
            slot.address_space,
            slot.id,
            hit.gpa,
            slot.hva_of(hit.gpa),
            Bytes(bytes)
        );
    }

    fn print_left(&self, findings: &Findings) {
        let left = findings.left;
        let slot = left.and_then(|left| self.slots().get(left.slot));
        if let (Some(left), Some(slot)) = (left, slot) {
            pr_info!(
                "left as={} slot={} gpa={:#x}\n",
                slot.address_space,
                slot.id,
                left.gpa
            );
        }
    }

    /// Says how many bytes are not covered in one instant.
    fn print_uncovered(&self) -> u64 {
        let (mut lines, mut bytes) = (0, 0_u64);
        self.search.for_each_uncovered(|slot, first, end| {
            bytes = bytes.saturating_add(end.saturating_sub(first) << PAGE_SHIFT);
            let Some(slot) = self.slots().get(slot).filter(|_| lines < MOST_UNCOVERED) else {
                return;
            };
            lines += 1;
            pr_info!(
                "uncovered as={} slot={} gpa={:#x}-{:#x}\n",
                slot.address_space,
                slot.id,
                slot.gpa_at(first),
                slot.gpa_at(end).wrapping_sub(1)
            );
        });
        bytes
    }

    fn print_done(&self, findings: &Findings, figures: Figures, uncovered: u64) {
        pr_info!(
            "done result={} vcpus={} slots={} hits={} printed={} scanned_bytes={} absent_pages={} \
             freeze_us={} pause_us={} private_pages={} scan_us={} threads={} engine={} access={} \
             pauses={} paused_us={} rescanned_bytes={} uncovered_bytes={}\n",
            self.result,
            self.vcpus.len(),
            self.slots().len(),
            findings.hit_count,
            findings.hits.len(),
            findings.scanned_bytes,
            findings.absent_pages,
            self.freeze.as_micros_ceil(),
            self.pauses.longest.as_micros_ceil(),
            findings.private_pages,
            figures.time.as_micros_ceil(),
            figures.threads,
            self.wanted.level.name(),
            self.wanted.access.name(),
            self.pauses.count,
            self.pauses.all.as_micros_ceil(),
            findings.rescanned_bytes,
            uncovered
        );
    }
}

fn print_vcpu(vcpu: &FrozenVcpu) {
    let (state, source) = match vcpu.state {
        VcpuState::Parked => ("parked", "kvm_run"),
        VcpuState::Outside => ("outside", "cached"),
    };
    let number = vcpu.number;
    let Some(registers) = &vcpu.registers else {
        pr_info!("vcpu id={number} state={state} source=none\n");
        return;
    };
    pr_info!(
        "vcpu id={number} state={state} source={source}{}\n",
        ModeKeys(registers)
    );
    pr_info!("regs vcpu={number}{}\n", Keys(&registers.general));
    pr_info!("control vcpu={number}{}\n", Keys(&registers.control));
    let Some(segments) = &registers.segments else {
        return;
    };
    for (name, segment) in &segments.segments {
        pr_info!(
            "segment vcpu={number} name={name} selector={:#x} base={:#x} limit={:#x} type={:#x} \
             s={} dpl={} present={} avl={} l={} db={} g={} unusable={}\n",
            segment.selector,
            segment.base,
            segment.limit,
            segment.type_,
            segment.s,
            segment.dpl,
            segment.present,
            segment.avl,
            segment.l,
            segment.db,
            segment.g,
            segment.unusable
        );
    }
    for (name, table) in &segments.tables {
        pr_info!(
            "table vcpu={number} name={name} base={:#x} limit={:#x}\n",
            table.base,
            table.limit
        );
    }
}

/// ` mode=… paging=… cpl=…`, as far as the registers tell.
struct ModeKeys<'a>(&'a Registers);

impl fmt::Display for ModeKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(segments) = &self.0.segments else {
            return Ok(());
        };
        let [(_, cs), .., (_, ss), _, _] = &segments.segments;
        let (cr0, cr4) = (self.0.control("cr0"), self.0.control("cr4"));
        let efer = self.0.control("efer");
        let mode = Mode::new(cr0, efer, self.0.general("rflags"), cs.l != 0);
        let paging = Paging::new(cr0, cr4, efer);
        // The privilege level is that of the stack segment, also where `cs` may be conforming.
        write!(f, " mode={mode} paging={paging} cpl={}", ss.dpl)
    }
}

/// ` name=value` for each register that is known.
struct Keys<'a>(&'a [Register]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.0 {
            if let Some(value) = value {
                write!(f, " {name}={value:#x}")?;
            }
        }
        Ok(())
    }
}

/// The names of a slot's flags.
struct Flags(u32);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, name) in FLAG_NAMES {
            if self.0 & bit != 0 {
                f.write_str(if first { "" } else { "," })?;
                f.write_str(name)?;
                first = false;
            }
        }
        if first {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// ` bytes=…` in hex, or nothing.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str(" bytes=")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A number, or `none`.
struct OrNone(Option<u32>);

impl fmt::Display for OrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("none"),
        }
    }
}
