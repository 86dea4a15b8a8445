// SPDX-License-Identifier: GPL-2.0

//! Where a kernel maps all RAM.

use super::{Kallsyms, Kernel};
use crate::paging::{Mode, RunLimit, VirtualMemory};

/// The base is a multiple of it, with KASLR, too (`kernel_randomize_memory`, `PUD_SIZE`).
const ALIGNMENT: u64 = 1 << 30;
/// How many places are tried.
const MAX_BASES: usize = 256;
/// At how many places of RAM a base is tested.
const MAX_SAMPLES: usize = 32;

/// The mapping of all RAM (`page_offset_base`): address `base + gpa` is `gpa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectMap {
    /// The virtual address of the guest-physical address 0.
    pub base: u64,
    /// How it was found.
    pub source: MapSource,
}

/// How the direct map was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapSource {
    /// By the kernel's variable `page_offset_base`, which the page tables confirm.
    Variable,
    /// By the page tables alone.
    Tables,
}

impl DirectMap {
    /// Finds the direct map.
    #[must_use]
    pub fn find(kernel: &Kernel<'_>, kallsyms: Option<&Kallsyms>) -> Option<Self> {
        let memory = kernel.memory();
        let variable = kallsyms.and_then(|kallsyms| kallsyms.address("page_offset_base"));
        let base = variable.and_then(|variable| memory.read_u64(variable).ok());
        if let Some(base) = base.filter(|base| maps_ram(memory, *base)) {
            return Some(Self {
                base,
                source: MapSource::Variable,
            });
        }
        // It is the first large thing in the upper half (Documentation/arch/x86/x86_64/mm.rst).
        let first = match memory.space().mode() {
            Mode::FiveLevel => 0xff00_0000_0000_0000,
            _ => 0xffff_8000_0000_0000,
        };
        let limit = RunLimit {
            tables: 1 << 14,
            ..RunLimit::default()
        };
        let runs = memory.runs(first..=u64::MAX, limit).map_while(Result::ok);
        let mut bases: Vec<u64> = Vec::new();
        for run in runs {
            let base = run.gva.checked_sub(run.gpa);
            let base = base.filter(|base| *base >= first && base % ALIGNMENT == 0);
            if let Some(base) = base.filter(|base| !bases.contains(base)) {
                if maps_ram(memory, base) {
                    let source = MapSource::Tables;
                    return Some(Self { base, source });
                }
                if bases.len() == MAX_BASES {
                    return None;
                }
                bases.push(base);
            }
        }
        None
    }

    /// Returns the virtual address of a guest-physical one.
    #[must_use]
    pub fn gva(&self, gpa: u64) -> Option<u64> {
        self.base.checked_add(gpa)
    }
}

/// Returns whether most RAM is mapped from here, and nothing else.
///
/// The ends of a range may belong to the firmware, and whole ranges to devices: only the middles
/// are tested, and page 1, which is RAM of every PC.
fn maps_ram(memory: &VirtualMemory<'_>, base: u64) -> bool {
    let ranges = memory.physical().ranges();
    let middles = ranges.iter().map(|range| {
        let middle = range.start + (range.end - range.start) / 2;
        middle & !0xfff
    });
    let is_low = ranges.first().is_some_and(|range| range.contains(&0x1000));
    let samples = is_low.then_some(0x1000).into_iter().chain(middles);
    let (mut right, mut all) = (0, 0);
    for gpa in samples.take(MAX_SAMPLES) {
        let gva = base.checked_add(gpa);
        match gva.map(|gva| memory.translate(gva)) {
            Some(Ok(found)) if found.gpa == gpa => right += 1,
            Some(Ok(_)) => return false,
            _ => (),
        }
        all += 1;
    }
    right > 0 && right * 2 >= all
}
