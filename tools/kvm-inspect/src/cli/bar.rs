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

#[cfg(test)]
#[path = "../../tests/pty/mod.rs"]
mod pty;

#[cfg(test)]
mod tests {
    use std::{
        env,
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::{
        super::{failure::Failure, terminal::Terminal},
        pty::{seen, Pty},
        *,
    };

    /// Tells a child what to do.
    const TASK: &str = "KVM_INSPECT_TEST_BAR";

    /// Is a command with a bar, as a process of its own: only so its standard error is a terminal.
    #[test]
    fn child() {
        let Ok(task) = env::var(TASK) else {
            return;
        };
        let terminal = Terminal::new(task == "quiet");
        let mut bar = Bar::new(terminal.shows_progress());
        if task != "early" {
            bar.begin = bar.begin.checked_sub(PATIENCE).expect("a time");
        }
        for mib in 1..=3 {
            bar.set("copied", mib << 20, 4 << 20);
        }
        if task == "wait" {
            thread::sleep(Duration::from_secs(600));
        }
        drop(bar);
        if task == "fail" {
            Failure::Failed("it is wrong; do that".to_owned()).report();
        }
    }

    /// Returns a child that is to do something, with a terminal of this type.
    fn child_with(task: &str, term: &str) -> Command {
        let mut setsid = Command::new("setsid");
        // So the terminal is its own, and the keyboard, too.
        setsid
            .arg("--ctty")
            .arg(env::current_exe().expect("a path"));
        setsid.args(["--exact", "--nocapture", "cli::bar::tests::child"]);
        setsid
            .env(TASK, task)
            .env("TERM", term)
            .env_remove("NO_COLOR");
        setsid.stdout(Stdio::null());
        setsid
    }

    /// Returns what a child writes to a terminal.
    fn on_terminal(command: &mut Command) -> String {
        let mut pty = Pty::new();
        command.stdin(pty.stdio()).stderr(pty.stdio());
        let mut running = command.spawn().expect("it runs");
        // It has the terminal open.
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let written = pty.rest();
        assert!(running.wait().expect("it ends").success(), "{written:?}");
        written
    }

    #[test]
    fn a_terminal_shows_how_far_it_is_and_then_nothing() {
        let written = on_terminal(&mut child_with("work", "xterm"));
        assert!(
            written.contains("copied 1.0 MiB of 4.0 MiB ["),
            "{written:?}"
        );
        assert!(written.contains(" 25 %"), "{written:?}");
        let seen = seen(&written);
        assert!(seen.iter().all(String::is_empty), "{seen:?}");
    }

    #[test]
    fn an_error_is_a_line_of_its_own() {
        let written = on_terminal(&mut child_with("fail", "xterm"));
        assert!(written.contains("copied "), "{written:?}");
        let error = "kvm-inspect: error: it is wrong; do that";
        assert_eq!(seen(&written), [error, ""]);
    }

    #[test]
    fn a_bar_has_no_colours() {
        for no_color in ["", "1"] {
            let mut command = child_with("work", "xterm");
            let written = on_terminal(command.env("NO_COLOR", no_color));
            assert!(written.contains("copied "), "{written:?}");
            assert!(!has_colours(&written), "{written:?}");
        }
    }

    fn has_colours(written: &str) -> bool {
        let sequences = written.split("\x1b[").skip(1);
        let mut ends = sequences.filter_map(|rest| rest.chars().find(char::is_ascii_alphabetic));
        ends.any(|end| end == 'm')
    }

    #[test]
    fn where_no_bar_helps_is_none() {
        for (task, term) in [("early", "xterm"), ("quiet", "xterm"), ("work", "dumb")] {
            let written = on_terminal(&mut child_with(task, term));
            assert_eq!(written, "", "{task} {term}");
        }
        let pty = Pty::new();
        let mut command = child_with("work", "xterm");
        let output = command.stdin(pty.stdio()).output().expect("it runs");
        assert!(output.status.success());
        assert_eq!(output.stderr, b"", "a pipe");
    }

    #[test]
    fn an_interrupt_leaves_the_terminal_as_it_was() {
        let mut pty = Pty::new();
        let before = pty.settings();
        let mut command = child_with("wait", "xterm");
        command.stdin(pty.stdio()).stderr(pty.stdio());
        let mut running = command.spawn().expect("it runs");
        drop(command);
        let mut written = pty.read_until("copied");
        pty.type_in(b"\x03");
        let status = running.wait().expect("it ends");
        // Nobody but the kernel ends it, which closes the session, and so lets the guest go on.
        assert_eq!(status.signal(), Some(2), "{status}");
        written.push_str(&pty.rest());
        assert!(!written.contains("\x1b[?"), "the cursor: {written:?}");
        assert_eq!(pty.settings(), before);
    }
}
