// SPDX-License-Identifier: GPL-2.0

//! The module's report in the kernel log (`docs/report.md`), for comparing.

use std::collections::BTreeMap;

use crate::qemu::Registers;

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
