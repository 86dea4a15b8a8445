// SPDX-License-Identifier: GPL-2.0

//! The module's report in the kernel log (`docs/report.md`), for comparing.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
};

use crate::qemu::Registers;

/// Longer than any record of `/dev/kmsg`.
const RECORD_MAX: usize = 8192;

/// What the module has logged since the last call.
pub struct KernelLog(File);

impl KernelLog {
    /// From the beginning of the log.
    ///
    /// # Errors
    ///
    /// There is no `/dev/kmsg`.
    pub fn open() -> io::Result<Self> {
        // O_NONBLOCK
        let file = OpenOptions::new().read(true).custom_flags(0o4000).open("/dev/kmsg")?;
        Ok(Self(file))
    }

    /// The new lines of the module, without its name, and without the kernel's own about its being
    /// loaded.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = vec![0; RECORD_MAX];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let line = text.lines().next().and_then(|line| line.split_once(';'));
                    if let Some(line) = line.and_then(|(_, line)| line.strip_prefix("kvm_inspect: ")).filter(|line| !line.contains("taint")) {
                        lines.push(line.to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                Err(error) => return Err(error),
            }
        }
    }
}

/// One line, taken apart.
pub struct Line<'a> {
    /// What the line is about.
    pub keyword: &'a str,
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    /// Takes a line apart.
    #[must_use]
    pub fn parse(line: &'a str) -> Self {
        let mut words = line.split(' ');
        Self {
            keyword: words.next().unwrap_or_default(),
            values: words.filter_map(|word| word.split_once('=')).collect(),
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).copied()
    }

    /// The value of `key`, a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

/// The registers of the vCPU with this number, by the names that [`crate::qemu`] gives them.
#[must_use]
pub fn registers(lines: &[String], vcpu: u64) -> Registers {
    let mut registers = Registers::new();
    for line in lines.iter().map(|line| Line::parse(line)) {
        let owner = line.number(if line.keyword == "vcpu" { "id" } else { "vcpu" });
        if owner != Some(vcpu) {
            continue;
        }
        let prefix = match line.keyword {
            "segment" | "table" => format!("{}.", line.text("name").unwrap_or_default()),
            _ => String::new(),
        };
        for key in line.values.keys() {
            if let Some(value) = line.number(key) {
                registers.insert(format!("{prefix}{key}"), value);
            }
        }
    }
    registers
}

/// Bytes as hex digits.
#[must_use]
pub fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
