// SPDX-License-Identifier: GPL-2.0

//! Shows how far a command has come, if that takes long.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::units::Size;
use crate::device::{Doing, Session, PAGE_BYTES};

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the session is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// A bar on standard error, which appears after half a second, if that is a terminal.
pub(super) struct Bar {
    begin: Instant,
    may_show: bool,
    shown: Option<ProgressBar>,
}

impl Bar {
    /// Creates it; `may_show` is [`Terminal::shows_progress`](super::Terminal::shows_progress).
    pub(super) fn new(may_show: bool) -> Self {
        Self {
            begin: Instant::now(),
            may_show,
            shown: None,
        }
    }

    /// Says that some of all bytes are done.
    pub(super) fn set(&mut self, what: &str, done: u64, all: u64) {
        if !self.may_show || self.begin.elapsed() < PATIENCE {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // It is a constant, and valid.
            if let Ok(style) = ProgressStyle::with_template("{msg} [{wide_bar}] {percent:>3} %") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        // What is done may grow beyond what was expected.
        bar.set_length(all.max(done).max(1));
        bar.set_position(done);
        bar.set_message(format!("{what} {} of {}", Size(done), Size(all)));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// Does work with a session, and shows how far it has come.
pub(super) fn watch<T>(may_show: bool, session: &Session, work: impl FnOnce() -> T) -> T {
    if !may_show {
        return work();
    }
    let bar = Bar::new(may_show);
    let (end, is_over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watcher = thread::Builder::new().name("progress".to_owned());
        // Without a thread, without progress.
        let watcher = watcher.spawn_scoped(scope, move || follow(session, bar, &is_over));
        let result = work();
        drop(end);
        // The bar must be gone before anything else is printed.
        if let Ok(watcher) = watcher {
            let _ = watcher.join();
        }
        result
    })
}

/// Shows how far a session has come until it is over.
fn follow(session: &Session, mut bar: Bar, is_over: &Receiver<()>) {
    while is_over.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let Ok(progress) = session.progress() else {
            continue;
        };
        let what = match progress.doing {
            Doing::Search => "searched",
            Doing::Copy => "copied",
            Doing::Nothing | Doing::Hold | Doing::Other(_) => continue,
        };
        let page = u64::try_from(PAGE_BYTES).unwrap_or(u64::MAX);
        let bytes = |pages: u64| pages.saturating_mul(page);
        bar.set(what, bytes(progress.done), bytes(progress.all));
    }
}
