// SPDX-License-Identifier: GPL-2.0

//! The kernel log from a moment on.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, PoisonError,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    fs::{open, Mode, OFlags},
    process::setpriority_process,
};

/// Longer than any record (`include/linux/printk.h`, `PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8192;

/// How often a [`Follower`] reads. The log holds what comes meanwhile.
const NAP: Duration = Duration::from_millis(2);

/// A reader of the kernel log.
pub struct KernelLog(File);

impl KernelLog {
    /// Creates a reader of all lines from now on.
    ///
    /// # Errors
    ///
    /// This process may not read the kernel log.
    pub fn from_now() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(open("/dev/kmsg", flags, Mode::empty())?);
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// Returns the lines since the last call.
    ///
    /// # Errors
    ///
    /// Lines were overwritten before they were read.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0; RECORD_MAX];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => lines.push(text(&record[..length])),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(lines),
                    ErrorKind::Interrupted => (),
                    ErrorKind::BrokenPipe => {
                        let why = "the kernel log has lost lines; log_buf_len= makes it larger";
                        return Err(io::Error::new(ErrorKind::BrokenPipe, why));
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Returns the lines of the module since the last call, without its name.
    ///
    /// # Errors
    ///
    /// As [`Self::lines`].
    pub fn module_lines(&mut self) -> io::Result<Vec<String>> {
        let lines = self.lines()?;
        Ok(lines
            .iter()
            .filter_map(|line| of_module(line).map(str::to_owned))
            .collect())
    }
}

/// Reads the module's lines while they are logged: a report may be longer than the log.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    read: Mutex<ReadLines>,
    is_over: AtomicBool,
}

struct ReadLines {
    log: KernelLog,
    lines: Vec<String>,
    error: Option<io::Error>,
}

impl Follower {
    /// Creates a reader of all lines from now on.
    ///
    /// # Errors
    ///
    /// As [`KernelLog::from_now`], or there can be no further thread.
    pub(crate) fn from_now() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            read: Mutex::new(ReadLines {
                log: KernelLog::from_now()?,
                lines: Vec::new(),
                error: None,
            }),
            is_over: AtomicBool::new(false),
        });
        let thread = thread::Builder::new().name("kernel log".to_owned());
        let thread = thread.spawn({
            let shared = shared.clone();
            move || {
                // This thread alone goes before others, if it may: lines are lost else.
                let _ = setpriority_process(None, -20);
                while !shared.is_over.load(Ordering::Relaxed) {
                    shared.read();
                    thread::sleep(NAP);
                }
            }
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns the lines of the module since the last call, without its name.
    ///
    /// # Errors
    ///
    /// As [`KernelLog::lines`].
    pub(crate) fn module_lines(&self) -> io::Result<Vec<String>> {
        self.shared.read();
        let mut read = self.shared.lock();
        match read.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut read.lines)),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, ReadLines> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) {
        let mut read = self.lock();
        match read.log.module_lines() {
            Ok(lines) => read.lines.extend(lines),
            Err(error) => read.error = Some(error),
        }
    }
}

/// Returns the text of a record.
fn text(record: &[u8]) -> String {
    let record = String::from_utf8_lossy(record);
    // What follows the first line are properties, "KEY=value" after a space.
    let line = record.split('\n').next().unwrap_or_default();
    unescaped(line.split_once(';').map_or(line, |(_, text)| text))
}

/// Returns a text without the escapes of `/dev/kmsg`: `\xHH` for a backslash and what cannot be
/// printed (`msg_add_ext_text` in `kernel/printk/printk.c`).
fn unescaped(text: &str) -> String {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let escape = part.split_at_checked(2);
        let escape = escape.and_then(|(digits, rest)| Some((crate::hex::bytes(digits)?, rest)));
        let (byte, rest) = escape.unwrap_or((b"\\x".to_vec(), part));
        bytes.extend(byte);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns what a line of the module says.
fn of_module(line: &str) -> Option<&str> {
    let text = line.strip_prefix("kvm_inspect: ")?;
    // The kernel's own words about loading the module.
    let is_kernels = text.contains("module") && text.contains("taint");
    (!is_kernels).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_record_comes_after_its_head() {
        let record = b"6,339,5140900,-;kvm_inspect: hit a=1; b=2\n SUBSYSTEM=x\n";
        assert_eq!(text(record), "kvm_inspect: hit a=1; b=2");
    }

    #[test]
    fn escapes_are_taken_back() {
        assert_eq!(
            text(br"6,1,1,-;write \x5cx22 or \xc3\xa9 \x"),
            r"write \x22 or é \x"
        );
    }

    #[test]
    fn lines_of_others_are_left_out() {
        assert_eq!(of_module("kvm_inspect: vm pid=1"), Some("vm pid=1"));
        assert_eq!(of_module("kvm: exiting hardware virtualization"), None);
        let taint = "kvm_inspect: loading out-of-tree module taints kernel.";
        assert_eq!(of_module(taint), None);
    }
}
