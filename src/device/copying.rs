// SPDX-License-Identifier: GPL-2.0

//! `KVM_INSPECT_COPY`: pages of the guest, in the memory of the caller.

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    time::{
        Delta,
        Instant, //
    }, //
};

use super::{
    address_space,
    arguments::{
        self,
        Argument, //
    },
    check_flags,
    context::{
        nanoseconds,
        Context,
        Guest, //
    }, //
    freeze_timeout,
    max_pause,
    session::{
        Job,
        Session, //
    },
};
use crate::{
    copy::{
        self,
        Copy,
        Order,
        Stretch, //
    },
    error::refuse,
    freeze::Terms,
    kvm::Memslots,
    linux::{
        address_space::{
            Patience,
            UserMemory, //
        },
        pages::UserPages,
        task, //
    },
    memory::{
        Map,
        PAGE, //
    },
    parameters,
    progress::Doing,
    request::Late,
    uapi, //
};

/// The most pages of one call: 16 GiB. The kernel allocates some bytes for each, and warns of
/// 2 GiB and more at once (`kvmalloc`).
const MAX_PAGES: u64 = 1 << 22;

/// The most ranges of one call.
const MAX_RANGES: u32 = 1 << 16;

/// `KVM_INSPECT_COPY`
pub(super) fn copy(session: &Session, argument: &Argument) -> Result {
    const FLAGS: u32 = uapi::COPY_PAUSED | uapi::COPY_CHANGED;

    let mut copy = argument.read::<uapi::Copy>()?;
    check_flags(copy.flags, FLAGS, 0)?;
    let (stretches, pages) = stretches(&copy)?;
    let known = if copy.flags & uapi::COPY_CHANGED == 0 {
        None
    } else if copy.digests == 0 {
        return Err(refuse!(
            EINVAL,
            "KVM_INSPECT_COPY_CHANGED needs digests; give them, as an earlier copy has told them"
        ));
    } else {
        Some(arguments::read_elements(copy.digests, pages)?)
    };
    let engine = parameters::best_engine();
    let order = Order {
        address_space: address_space(copy.address_space)?,
        stretches,
        pages,
        target: target(&copy, pages)?,
        known,
        key: (copy.digests != 0).then(|| (session.shared().key.clone(), engine)),
        threads: parameters::threads(copy.threads.into())?,
    };
    let timeout = freeze_timeout(copy.freeze_timeout_ms)?;
    let max_pause = max_pause(copy.max_pause_ms)?;
    let work = Copy::new(order, session.shared().progress.clone())?;
    let job = session.call(CopyJob {
        copy: work.clone(),
        is_paused: copy.flags & uapi::COPY_PAUSED != 0,
        terms: Terms {
            timeout: Delta::from_millis(max_pause.unwrap_or(u32::MAX).min(timeout).into()),
            late: Late::Refuse,
            is_first: true,
        },
        max_pause: max_pause.map(|most| Delta::from_millis(most.into())),
        pages: u64::try_from(pages)?,
        freeze: Delta::ZERO,
        pause: Delta::ZERO,
    });
    // Also if it has failed: a helper may still write to the buffer. Here, since the thread of the
    // session may be holding the guest.
    work.settle()?;
    // It must not start over with digests that are no longer those of the buffer.
    let is_new = copy.flags & uapi::COPY_CHANGED == 0;
    let job = job.map_err(|error| match error {
        _ if is_new => error,
        error if error == ERESTARTNOHAND => EINTR,
        error => error,
    })?;
    let copied = work.copied()?;
    job.with(|job| {
        if copy.kinds != 0 {
            arguments::write_bytes(copy.kinds, &copied.kinds)?;
        }
        if copy.digests != 0 {
            let digests = copied.digests.iter().copied();
            arguments::write_elements(copy.digests, DIGEST_SIZE, digests)?;
        }
        copy.present = copied.present;
        copy.copied = copied.copied;
        copy.late = copied.late;
        copy.threads = copied.threads;
        copy.freeze_ns = nanoseconds(job.freeze);
        copy.pause_ns = nanoseconds(job.pause);
        argument.write(&copy)
    })
}

const DIGEST_SIZE: u32 = 8;

/// Returns the stretches that are to be copied, and how many pages they have.
fn stretches(copy: &uapi::Copy) -> Result<(KVVec<Stretch>, usize)> {
    if copy.range_count > MAX_RANGES {
        return Err(refuse!(
            E2BIG,
            "there are more than {MAX_RANGES} ranges; give larger ones, or call several times"
        ));
    }
    let ranges =
        arguments::read_elements::<uapi::Pages>(copy.ranges, usize::try_from(copy.range_count)?)?;
    let mut stretches = KVVec::with_capacity(ranges.len(), GFP_KERNEL)?;
    let mut all = 0_u64;
    for range in &ranges {
        let size = range.pages.checked_mul(PAGE);
        let end = size.and_then(|size| range.gpa.checked_add(size));
        if range.gpa % PAGE != 0 || end.is_none() {
            return Err(refuse!(
                EINVAL,
                "the range from {:#x} on does not begin at a multiple of 4096, or leaves the \
                 64-bit space; give another one",
                range.gpa
            ));
        }
        let before = usize::try_from(all)?;
        all = all.saturating_add(range.pages);
        if all > MAX_PAGES {
            return Err(refuse!(
                E2BIG,
                "these are more than {MAX_PAGES} pages; call several times"
            ));
        }
        if range.pages > 0 {
            let stretch = Stretch {
                gpa: range.gpa,
                pages: usize::try_from(range.pages)?,
                before,
            };
            stretches.push(stretch, GFP_KERNEL)?;
        }
    }
    Ok((stretches, usize::try_from(all)?))
}

/// Pins the memory of the caller that is to be written.
fn target(copy: &uapi::Copy, pages: usize) -> Result<Option<UserPages>> {
    if copy.buffer == 0 || pages == 0 {
        return Ok(None);
    }
    let start = usize::try_from(copy.buffer)?;
    if start % PAGE_SIZE != 0 {
        return Err(refuse!(
            EINVAL,
            "the buffer does not begin at a multiple of 4096; align it"
        ));
    }
    UserPages::pin(start, pages).map(Some).map_err(|error| {
        if error == EFAULT {
            refuse!(
                error,
                "the buffer is smaller than the pages, or cannot be written; give another one"
            )
        } else if error == EINTR {
            ERESTARTNOHAND
        } else {
            error
        }
    })
}

struct CopyJob {
    copy: Arc<Copy>,
    is_paused: bool,
    terms: Terms,
    max_pause: Option<Delta>,
    pages: u64,
    freeze: Delta,
    pause: Delta,
}

impl Job for CopyJob {
    fn run(&mut self, context: &mut Context<'_>) -> Result {
        context.progress.begin(Doing::Copy, self.pages);
        let mut held = copy::room()?;
        let copy = self.copy.clone();
        if self.is_paused {
            self.copy_paused(context, &mut |memory, stop| {
                copy.run(memory, &mut held, stop)
            })
        } else {
            self.copy_running(context, &mut |memory, stop| {
                copy.run(memory, &mut held, stop)
            })
        }?;
        context.target.check_unprotected()
    }
}

/// What copies, with the memory of the VMM, until it is told to stop.
type Run<'a> = &'a mut dyn FnMut(&UserMemory<'_>, &dyn Fn() -> bool);

impl CopyJob {
    fn copy_running(&mut self, context: &mut Context<'_>, run: Run<'_>) -> Result {
        let vm = &context.target.vm;
        let map = Map::new(vm.try_clone()?, Memslots::read(vm)?);
        self.copy.set_map(Arc::new(map, GFP_KERNEL)?);
        context.with_memory(|memory, stop| {
            run(&memory.memory(&Patience::new()), stop);
            if stop() {
                return Err(EINTR);
            }
            Ok(())
        })
    }

    fn copy_paused(&mut self, context: &mut Context<'_>, run: Run<'_>) -> Result {
        let target = context.target;
        let mut slots = Memslots::read(&target.vm)?;
        let (copy, most) = (self.copy.clone(), self.max_pause);
        let is_held = matches!(context.guest, Guest::Stands { .. });
        let paused = context.pause(&self.terms, |freeze, memory, stop| {
            slots.read_again(&target.vm, task::gfp_paused())?;
            let map = Map::new(target.vm.try_clone()?, slots);
            copy.set_map(Arc::new(map, task::gfp_paused())?);
            freeze.share(copy.clone());
            let since = if is_held {
                Instant::now()
            } else {
                freeze.since()
            };
            let is_over = || most.is_some_and(|most| since.elapsed() >= most);
            run(&memory.memory(copy.patience()), &|| stop() || is_over());
            if stop() {
                return Err(EINTR);
            }
            Ok(())
        })?;
        (self.freeze, self.pause) = (paused.freeze, paused.pause);
        paused.result
    }
}
