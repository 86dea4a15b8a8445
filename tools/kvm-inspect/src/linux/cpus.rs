// SPDX-License-Identifier: GPL-2.0

//! The numbers that Linux gives CPUs.

use super::{Kallsyms, Kernel};

/// `NR_CPUS` is 8192 at most on x86.
const MAX_CPUS: usize = 8192;

/// Which CPU of Linux has which APIC ID.
///
/// A vCPU is known to KVM by a number that is its first APIC ID, if the VMM does as QEMU does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuNumbers {
    /// By the numbers of the CPUs.
    apic_ids: Vec<u32>,
}

impl CpuNumbers {
    /// Reads the kernel's table (`cpuid_to_apicid`, `arch/x86/kernel/cpu/topology.c`; before 6.9,
    /// `arch/x86/kernel/apic/apic.c`). Returns nothing if it is not there, or holds no CPU.
    #[must_use]
    pub fn read(kernel: &Kernel<'_>, kallsyms: &Kallsyms) -> Option<Self> {
        let table = kallsyms.address("cpuid_to_apicid")?;
        let room = usize::try_from(kallsyms.room(table)? / 4).ok()?;
        let mut bytes = vec![0; room.min(MAX_CPUS) * 4];
        kernel.memory().read(table, &mut bytes).ok()?;
        let ids = bytes.chunks_exact(4);
        let ids = ids.map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
        // BAD_APICID is -1, or was 0xffff; what follows the table is padding of zeros.
        let is_good = |(cpu, id): &(usize, u32)| {
            let is_padding = *cpu > 0 && *id == 0;
            !matches!(*id, u32::MAX | 0xffff) && !is_padding
        };
        let ids = ids.enumerate().take_while(is_good).map(|(_, id)| id);
        let apic_ids: Vec<u32> = ids.collect();
        (!apic_ids.is_empty()).then_some(Self { apic_ids })
    }

    /// Returns the number of the CPU with an APIC ID.
    #[must_use]
    pub fn cpu_of_apic_id(&self, apic_id: u32) -> Option<u32> {
        let index = self.apic_ids.iter().position(|other| *other == apic_id);
        index.and_then(|index| u32::try_from(index).ok())
    }

    /// Returns the APIC IDs of all CPUs, by their numbers.
    #[must_use]
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids
    }

    /// Returns the numbers of the CPUs that have these APIC IDs, in the same order. If one of them
    /// is unknown, or two are the same CPU, it returns nothing: then all numbers can only be
    /// assumed to be those of the vCPUs in their order.
    #[must_use]
    pub fn numbers(&self, apic_ids: &[u32]) -> Option<Vec<u32>> {
        let numbers = apic_ids.iter().map(|id| self.cpu_of_apic_id(*id));
        let numbers: Vec<u32> = numbers.collect::<Option<_>>()?;
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        (sorted.len() == numbers.len()).then_some(numbers)
    }
}
