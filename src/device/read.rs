// SPDX-License-Identifier: GPL-2.0

//! `pread` of the device: guest-physical memory, as it is while the guest runs or stands.

use kernel::{
    fs::Kiocb,
    iov::IovIterDest,
    prelude::*,
    types::ForeignOwnable, //
};

use super::{
    context::Context,
    session::{
        Job,
        Session, //
    },
};
use crate::{
    copy,
    kvm::Memslots,
    linux::{
        address_space::{
            Patience,
            UserMemory, //
        },
        pages::{
            HeldPages,
            Sight, //
        },
        task, //
    },
    memory::{
        Map,
        Plan,
        PAGE, //
    },
    range::Range,
    target, //
};

/// The most bytes that are read at once.
const MAX_BYTES: usize = 1 << 20;

/// Reads address space 0 from the position on, which is a guest-physical address. What is not there
/// reads as zeros. After the last memslot nothing is read.
///
/// # Errors
///
/// As [`Session::call`].
pub(super) fn read<T: ForeignOwnable>(
    session: &Session,
    mut kiocb: Kiocb<'_, T>,
    into: &mut IovIterDest<'_>,
) -> Result<usize> {
    let job = session.explaining(|| {
        target::check_lockdown()?;
        session.call(ReadJob {
            gpa: u64::try_from(kiocb.ki_pos())?,
            bytes: KVVec::from_elem(0, into.len().min(MAX_BYTES), GFP_KERNEL)?,
            count: 0,
        })
    })?;
    let copied = job.with(|job| into.copy_to_iter(job.bytes.get(..job.count).unwrap_or_default()));
    if copied == 0 && job.with(|job| job.count) > 0 {
        return Err(EFAULT);
    }
    *kiocb.ki_pos_mut() = kiocb.ki_pos().saturating_add(i64::try_from(copied)?);
    Ok(copied)
}

struct ReadJob {
    gpa: u64,
    /// Zeros at first.
    bytes: KVVec<u8>,
    count: usize,
}

impl ReadJob {
    /// Reads some of the bytes from `at` on, within a page. Returns how many.
    fn read_some(
        &mut self,
        map: &Map,
        memory: &UserMemory<'_>,
        held: &mut HeldPages,
        at: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<usize> {
        let gpa = self.gpa.saturating_add(u64::try_from(at)?);
        let offset = usize::try_from(gpa % PAGE)?;
        let most = usize::try_from(PAGE)?.saturating_sub(offset);
        let into = self.bytes.get_mut(at..self.count).unwrap_or_default();
        let most = most.min(into.len());
        let into = into.get_mut(..most).unwrap_or_default();
        let slot = map
            .slot_index(0, gpa)
            .and_then(|slot| map.slots().get(slot));
        let Some(slot) = slot else {
            return Ok(most);
        };
        if matches!(
            map.plan(&[Range::ALL], slot, gpa - gpa % PAGE).0,
            Plan::Private { .. }
        ) {
            return Ok(most);
        }
        let source = map.source(slot, memory);
        let page = gpa.saturating_sub(slot.gpa) / PAGE;
        if source.look(page, 1, stop) == Sight::Present && source.hold(page, 1, held, stop).is_ok()
        {
            held.view()?.copy_safely(offset, into);
            held.release();
        }
        Ok(most)
    }
}

impl Job for ReadJob {
    fn run(&mut self, context: &mut Context<'_>) -> Result {
        let vm = &context.target.vm;
        let map = Map::new(vm.try_clone()?, Memslots::read(vm)?);
        let normal = map.slots().iter().filter(|slot| slot.address_space == 0);
        let Some(last) = normal.map(|slot| slot.last_gpa()).max() else {
            return Ok(());
        };
        let Some(left) = last.checked_sub(self.gpa) else {
            return Ok(());
        };
        let left = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        self.count = self.bytes.len().min(left);
        context.with_memory(|memory, stop| {
            let patience = Patience::new();
            let memory = memory.memory(&patience);
            let mut held = copy::room()?;
            let mut at = 0;
            while at < self.count {
                if stop() {
                    return Err(EINTR);
                }
                at += self.read_some(&map, &memory, &mut held, at, stop)?.max(1);
                task::cond_resched();
            }
            Ok(())
        })
    }
}
