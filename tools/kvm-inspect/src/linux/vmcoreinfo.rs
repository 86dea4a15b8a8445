// SPDX-License-Identifier: GPL-2.0

//! The text of VMCOREINFO: what a kernel says about itself (`kernel/vmcore_info.c`).

use std::collections::BTreeMap;

use crate::paging::{AddressSpace, Mode};

/// Where Linux for x86-64 maps its image (`__START_KERNEL_map`), before `phys_base` is added.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// What a kernel says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmcoreInfo {
    text: String,
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Reads lines of `KEY=VALUE`. Other lines are ignored, and so is a key that comes again.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut values = BTreeMap::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let entry = values.entry(key.to_owned());
            entry.or_insert_with(|| value.to_owned());
        }
        let text = text.to_owned();
        Self { text, values }
    }

    /// Returns the text, as the note `VMCOREINFO` of a core has it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the value of a key, such as `PAGESIZE`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Returns the address of a symbol: `SYMBOL(name)`.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        hexadecimal(self.of("SYMBOL", name)?)
    }

    /// Returns the offset of a member, in bytes: `OFFSET(type.member)`.
    #[must_use]
    pub fn offset(&self, member: &str) -> Option<u64> {
        self.of("OFFSET", member)?.parse().ok()
    }

    /// Returns the size of a type, in bytes: `SIZE(name)`.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.of("SIZE", name)?.parse().ok()
    }

    /// Returns how many elements an array has: `LENGTH(name)`.
    #[must_use]
    pub fn length(&self, name: &str) -> Option<u64> {
        self.of("LENGTH", name)?.parse().ok()
    }

    /// Returns a number: `NUMBER(name)`. It is signed and decimal, unless it begins with `0x`; then
    /// it has 64 bits, of which the highest one is the sign.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.of("NUMBER", name)?;
        match text.strip_prefix("0x") {
            Some(digits) => hexadecimal(digits).map(|n| i64::from_ne_bytes(n.to_ne_bytes())),
            None => text.parse().ok(),
        }
    }

    fn of(&self, kind: &str, name: &str) -> Option<&str> {
        self.value(&format!("{kind}({name})"))
    }

    /// Returns the release, as `uname -r` prints it.
    #[must_use]
    pub fn os_release(&self) -> Option<&str> {
        self.value("OSRELEASE")
    }

    /// Returns the build ID as hex digits, by which debuginfod knows the kernel. Linux tells it
    /// since 5.9.
    #[must_use]
    pub fn build_id(&self) -> Option<&str> {
        self.value("BUILD-ID")
    }

    /// Returns by how many bytes KASLR has moved the addresses of symbols.
    #[must_use]
    pub fn kaslr_offset(&self) -> Option<u64> {
        hexadecimal(self.value("KERNELOFFSET")?)
    }

    /// Returns by how many bytes the image lies higher in physical memory than it was linked for.
    /// That may be negative.
    #[must_use]
    pub fn phys_base(&self) -> Option<i64> {
        self.number("phys_base")
    }

    /// Returns how the kernel translates addresses. It does not say so on other machines than
    /// x86-64, and before 4.17, when there were no five levels.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.number("pgtable_l5_enabled") {
            Some(1) => Mode::FiveLevel,
            _ => Mode::FourLevel,
        }
    }

    /// Returns the guest-physical address of something in the kernel's image.
    #[must_use]
    pub fn image_gpa(&self, gva: u64) -> Option<u64> {
        let offset = gva.checked_sub(START_KERNEL_MAP)?;
        offset.checked_add_signed(self.phys_base()?)
    }

    /// Returns the kernel's own address space, by `swapper_pg_dir`.
    #[must_use]
    pub fn address_space(&self) -> Option<AddressSpace> {
        let root = self.image_gpa(self.symbol("swapper_pg_dir")?)?;
        Some(AddressSpace::new(self.mode(), root))
    }
}

fn hexadecimal(digits: &str) -> Option<u64> {
    // A sign would be parsed, too.
    let first = digits.bytes().next()?;
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|_| first != b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
OSRELEASE=7.3.4+deb13-amd64
BUILD-ID=b3997c9b
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff8562a000
OFFSET(uts_namespace.name)=4
SIZE(page)=64
LENGTH(node_data)=1024
NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376
NUMBER(VMALLOC_START)=0xff80716100000000
NUMBER(phys_base)=65011712
NUMBER(pgtable_l5_enabled)=1
KERNELOFFSET=2400000
CRASHTIME=1=2
not a key
PAGESIZE=1
";

    #[test]
    fn each_kind_of_value_is_read() {
        let info = VmcoreInfo::parse(TEXT);
        assert_eq!(info.os_release(), Some("7.3.4+deb13-amd64"));
        assert_eq!(info.build_id(), Some("b3997c9b"));
        assert_eq!(info.value("PAGESIZE"), Some("4096"));
        assert_eq!(info.value("CRASHTIME"), Some("1=2"));
        assert_eq!(info.symbol("swapper_pg_dir"), Some(0xffff_ffff_8562_a000));
        assert_eq!(info.offset("uts_namespace.name"), Some(4));
        assert_eq!(
            (info.size("page"), info.length("node_data")),
            (Some(64), Some(1024))
        );
        assert_eq!(info.number("PAGE_SLAB_MAPCOUNT_VALUE"), Some(-184_549_376));
        assert_eq!(info.number("VMALLOC_START"), Some(-0x7f_8e9f_0000_0000));
        assert_eq!(
            (info.phys_base(), info.kaslr_offset()),
            (Some(65_011_712), Some(0x240_0000))
        );
        assert_eq!(info.text(), TEXT);
    }

    #[test]
    fn the_root_follows_from_phys_base() {
        let root = |text: &str| VmcoreInfo::parse(text).address_space();
        let space = AddressSpace::new(Mode::FiveLevel, 0x562_a000 + 65_011_712);
        assert_eq!(root(TEXT), Some(space));
        let low = TEXT.replace("=65011712", "=-16777216");
        let space = AddressSpace::new(Mode::FiveLevel, 0x562_a000 - 0x100_0000);
        assert_eq!(root(&low), Some(space));
        let four = TEXT.replace("enabled)=1", "enabled)=0");
        assert_eq!(root(&four).map(|space| space.mode()), Some(Mode::FourLevel));
    }

    #[test]
    fn nonsense_is_no_value() {
        for text in [
            "",
            "SYMBOL(swapper_pg_dir)=",
            "SYMBOL(swapper_pg_dir)=+1",
            "SYMBOL(swapper_pg_dir)=1ffffffffffffffff",
            "SYMBOL(swapper_pg_dir)=1000\nNUMBER(phys_base)=0",
            "SYMBOL(swapper_pg_dir)=ffffffff80000000\nNUMBER(phys_base)=-1",
            "SYMBOL(swapper_pg_dir)=ffffffff80000000\nNUMBER(phys_base)=99999999999999999999",
        ] {
            assert_eq!(VmcoreInfo::parse(text).address_space(), None, "{text}");
        }
    }
}
