// SPDX-License-Identifier: GPL-2.0

//! The kernel log from a moment on.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Seek, SeekFrom},
};

use rustix::fs::{open, Mode, OFlags};

/// Longer than any record (`include/linux/printk.h`, `PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8192;

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

/// Returns the text of a record.
fn text(record: &[u8]) -> String {
    let record = String::from_utf8_lossy(record);
    // What follows the first line are properties, "KEY=value" after a space.
    let line = record.split('\n').next().unwrap_or_default();
    line.split_once(';')
        .map_or(line, |(_, text)| text)
        .to_owned()
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
    fn lines_of_others_are_left_out() {
        assert_eq!(of_module("kvm_inspect: vm pid=1"), Some("vm pid=1"));
        assert_eq!(of_module("kvm: exiting hardware virtualization"), None);
        let taint = "kvm_inspect: loading out-of-tree module taints kernel.";
        assert_eq!(of_module(taint), None);
    }
}
