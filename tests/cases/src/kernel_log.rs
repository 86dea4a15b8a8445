// SPDX-License-Identifier: GPL-2.0

//! The kernel log from a moment on.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

/// Longer than any record (`include/linux/printk.h`, `PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8192;

/// What is logged from the making of this on.
pub struct KernelLog(File);

impl KernelLog {
    /// Begins here and now.
    ///
    /// # Panics
    ///
    /// There is no kernel log to be read.
    #[must_use]
    pub fn from_now() -> Self {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .expect("/dev/kmsg can be opened");
        file.seek(SeekFrom::End(0))
            .expect("/dev/kmsg can be sought");
        Self(file)
    }

    /// The lines since the last call.
    ///
    /// # Panics
    ///
    /// Reading fails.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; RECORD_MAX];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]);
                    // What follows the first line are properties, "KEY=value" after a space.
                    let line = record.split('\n').next().unwrap_or_default();
                    let text = line.split_once(';').map_or(line, |(_, text)| text);
                    lines.push(text.to_owned());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return lines,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => panic!("reading the kernel log: {error}"),
            }
        }
    }

    /// The lines of the module since the last call, without its name.
    ///
    /// # Panics
    ///
    /// Reading fails.
    pub fn module_lines(&mut self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain_mut(|line| match line.strip_prefix("kvm_inspect: ") {
            // The kernel's own words about loading the module.
            Some(rest) if rest.contains("module") && rest.contains("taint") => false,
            Some(rest) => {
                *line = rest.to_owned();
                true
            }
            None => false,
        });
        lines
    }
}
