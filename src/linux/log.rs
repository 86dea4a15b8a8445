// SPDX-License-Identifier: GPL-2.0

//! Where the lines go that say why something failed: to the kernel log, or to who has asked a
//! thread for it.
//!
//! Nothing is taken under [`LISTENERS`] and `Lines::text`.

use kernel::{
    fmt,
    new_spinlock,
    prelude::*,
    sync::{
        global_lock,
        Arc,
        SpinLock, //
    },
    task::Task,
    types::NotThreadSafe, //
};

use crate::uapi::MAX_EXPLANATION;

global_lock! {
    // SAFETY: `init` initializes it before anything else uses it.
    /// The threads whose lines do not go to the log.
    unsafe(uninit) static LISTENERS: SpinLock<KVec<(usize, Arc<Lines>)>> = KVec::new();
}

/// Prepares this file.
///
/// # Safety
///
/// This is called once, when the module is loaded, before anything else of this file.
pub(crate) unsafe fn init() {
    // SAFETY: By this function's contract.
    unsafe { LISTENERS.init() };
}

/// The lines of one thread, as far as there is room.
#[pin_data]
pub(crate) struct Lines {
    #[pin]
    text: SpinLock<Text>,
}

struct Text {
    bytes: [u8; MAX_EXPLANATION],
    len: usize,
}

impl Lines {
    /// Creates them, without any line.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            text <- new_spinlock!(
                Text { bytes: [0; MAX_EXPLANATION], len: 0 },
                "kvm_inspect::Lines::text"
            ),
        })
    }

    /// Takes over all lines of `other`, in place of its own.
    pub(crate) fn set(&self, other: &Self) {
        let mut bytes = [0; MAX_EXPLANATION];
        let len = other.copy(&mut bytes);
        *self.text.lock() = Text { bytes, len };
    }

    /// Copies the lines into `into`, which has room for all, and returns how many bytes they are.
    pub(crate) fn copy(&self, into: &mut [u8; MAX_EXPLANATION]) -> usize {
        let text = self.text.lock();
        *into = text.bytes;
        text.len
    }

    /// Adds a line.
    fn add(&self, line: fmt::Arguments<'_>) {
        let mut text = self.text.lock();
        if text.len > 0 {
            let _ = fmt::Write::write_str(&mut *text, "\n");
        }
        // What has no room is cut off.
        let _ = fmt::Write::write_fmt(&mut *text, line);
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let len = more.len().min(MAX_EXPLANATION.saturating_sub(self.len));
        let end = self.len.saturating_add(len);
        let room = self.bytes.get_mut(self.len..end);
        for (to, from) in room.into_iter().flatten().zip(more.as_bytes()) {
            *to = *from;
        }
        self.len = end;
        Ok(())
    }
}

/// While this lives, the lines of the current thread do not go to the log. There may be one within
/// another.
pub(crate) struct Listener {
    /// The thread; [`None`]: there was no memory, so it is not in [`LISTENERS`].
    task: Option<usize>,
    _not_send: NotThreadSafe,
}

impl Listener {
    /// Has `lines` take them. If there is no memory, they go to the log after all.
    pub(crate) fn begin(lines: Arc<Lines>) -> Self {
        let task = Task::current_raw().addr();
        let is_added = LISTENERS.lock().push((task, lines), GFP_ATOMIC).is_ok();
        Self {
            task: is_added.then_some(task),
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(own) = self.task else {
            return;
        };
        let mut listeners = LISTENERS.lock();
        let index = listeners.iter().rposition(|(task, _)| *task == own);
        let gone = index.map(|index| listeners.remove(index));
        // The list is never dropped, so its memory must go with its last element.
        let memory = listeners
            .is_empty()
            .then(|| core::mem::take(&mut *listeners));
        drop(listeners);
        drop((gone, memory));
    }
}

/// Returns what takes the lines of the current thread, if they do not go to the log.
pub(crate) fn listening() -> Option<Arc<Lines>> {
    let task = Task::current_raw().addr();
    let listeners = LISTENERS.lock();
    // The latest.
    let listener = listeners.iter().rfind(|(listener, _)| *listener == task);
    listener.map(|(_, lines)| lines.clone())
}

/// Gives a line to who listens to the current thread. Returns whether somebody does.
pub(crate) fn tell(line: fmt::Arguments<'_>) -> bool {
    listening().inspect(|lines| lines.add(line)).is_some()
}
