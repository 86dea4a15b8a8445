// SPDX-License-Identifier: GPL-2.0

//! The memory of a guest that runs, or is held, by way of the device.

use std::{io, ops::Range};

use kvm_inspect_pure::uapi;

use crate::{
    core,
    device::{CopyInto, CopyTerms, Error, PageBuffer, PageKind, Session},
    guest::{GuestMemory, OutsideRam, PAGE_SIZE},
    linux::{self, MAX_CANDIDATES},
    paging::ControlRegisters,
};

/// The lowest number of KVM's own memslots (`KVM_USER_MEM_SLOTS`), in which there is no RAM.
const FIRST_INTERNAL_SLOT: i16 = 32764;

/// How many pages are copied at once: 4 MiB.
const PAGES_AT_ONCE: usize = 1024;

/// The memory of a guest, as it is when it is read.
#[derive(Debug)]
pub struct LiveMemory<'a> {
    session: &'a Session,
    ranges: Vec<Range<u64>>,
}

impl<'a> LiveMemory<'a> {
    /// Looks at the memslots: what lies in those of the VMM, outside of system management mode, is
    /// RAM.
    ///
    /// # Errors
    ///
    /// Those of the module, and `EINVAL` if the memslots make no sense.
    pub fn new(session: &'a Session) -> Result<Self, Error> {
        let slots = session.slots()?;
        let ram = slots
            .iter()
            .filter(|slot| slot.address_space == 0 && slot.id < FIRST_INTERNAL_SLOT);
        let sizes =
            ram.map(|slot| core::Range::new(slot.gpa, slot.pages.saturating_mul(PAGE_SIZE)));
        let ranges = core::Ranges::new(sizes).map_err(|error| {
            let line = format!("the memslots make no sense: {error}");
            Error::new(rustix::io::Errno::INVAL, line)
        })?;
        let ranges = ranges.as_slice().iter();
        Ok(Self {
            session,
            ranges: ranges
                .map(|range| range.gpa..range.gpa.saturating_add(range.size))
                .collect(),
        })
    }

    /// Returns the session that it is read by.
    #[must_use]
    pub fn session(&self) -> &'a Session {
        self.session
    }

    /// Returns the guest-physical addresses of the pages that begin like VMCOREINFO. All pages that
    /// are present are copied for that, while the guest runs. `progress` is told how many bytes of
    /// how many are done.
    ///
    /// # Errors
    ///
    /// Those of the module.
    pub fn candidates(&self, mut progress: impl FnMut(u64, u64)) -> Result<Vec<u64>, Error> {
        let size = |range: &Range<u64>| range.end.saturating_sub(range.start);
        let all = self.ranges.iter().map(size).sum();
        let mut before = 0;
        let mut found = Vec::new();
        let mut buffer = PageBuffer::new(PAGES_AT_ONCE)?;
        for range in &self.ranges {
            for extent in self
                .session
                .present(range.start, size(range) / PAGE_SIZE, 0)
            {
                let extent = extent?;
                if PageKind::new(extent.kind) == PageKind::Present {
                    self.look_at(&extent, &mut buffer, &mut found)?;
                }
                progress(before + extent.gpa.saturating_sub(range.start), all);
            }
            before += size(range);
        }
        Ok(found)
    }

    /// Looks for candidates in neighbouring pages.
    fn look_at(
        &self,
        extent: &uapi::Extent,
        buffer: &mut PageBuffer,
        found: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let (mut gpa, mut left) = (extent.gpa, extent.pages);
        while left > 0 && found.len() < MAX_CANDIDATES {
            let pages = left.min(PAGES_AT_ONCE as u64);
            buffer.resize(usize::try_from(pages).unwrap_or(PAGES_AT_ONCE));
            let into = CopyInto {
                pages: Some(&mut *buffer),
                ..CopyInto::default()
            };
            let ranges = [uapi::Pages { gpa, pages }];
            self.session.copy(&ranges, into, CopyTerms::default())?;
            found.extend(linux::candidates_in(gpa, buffer.as_bytes()));
            gpa = gpa.saturating_add(pages * PAGE_SIZE);
            left -= pages;
        }
        Ok(())
    }
}

impl GuestMemory for LiveMemory<'_> {
    fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()> {
        OutsideRam::check(&self.ranges, gpa, into.len())?;
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = gpa.saturating_add(u64::try_from(done).map_err(io::Error::other)?);
            match self.session.read_at(rest, at).map_err(io::Error::other)? {
                // The VMM has removed memory meanwhile.
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

/// Returns how the vCPUs whose registers are known find their memory.
#[must_use]
pub fn control_registers(vcpus: &[uapi::Vcpu]) -> Vec<ControlRegisters> {
    const UNKNOWN: u32 = uapi::NO_REGISTERS | uapi::NO_CR0 | uapi::NO_CR3 | uapi::NO_CR4;

    let known = vcpus.iter().filter(|vcpu| vcpu.lacks & UNKNOWN == 0);
    let known = known.filter(|vcpu| vcpu.flags & uapi::VCPU_NESTED == 0);
    known
        .map(|vcpu| ControlRegisters {
            cr0: vcpu.cr0,
            cr3: vcpu.cr3,
            cr4: vcpu.cr4,
            efer: vcpu.efer,
        })
        .collect()
}
