// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect read`: memory of the guest.

mod mapped;
mod pieces;

use std::{
    cell::Cell,
    io::Write as _,
    path::{Path, PathBuf},
};

use kvm_inspect_pure::range::Range;

use self::{
    mapped::MappedPieces,
    pieces::{Piece, Pieces},
};
use super::{
    arguments::{range, FreezeArgs},
    bar::Bar,
    failure::{Failure, Status},
    units::{Count, Size},
    vm::Opened,
    Context,
};
use crate::{
    device::{PageKind, Session},
    hex,
    hexdump::HexDump,
    host::Selection,
    json, live,
    output::{Existing, Output},
    paging::AddressSpace,
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect read 0x1000
  kvm-inspect read 812 0x100000+64K
  kvm-inspect read 812 --gva 0xffffffff81000000 --vcpu 1
  kvm-inspect read --name web 0xfd000-0xfffff -o bios.bin
  kvm-inspect read 812 1M+16M -o - | strings";

const USAGE: &str = "kvm-inspect read [OPTIONS] [VM] <GPA|FIRST-LAST|FIRST+SIZE>";

/// How many bytes are read at an address without a size.
const DEFAULT_SIZE: u64 = 256;

/// Shows memory of the guest, as it is now
///
/// The guest runs meanwhile. What is not in memory (swapped, in a file and so on) is named; in a
/// file of raw bytes it is zeros. The exit status is 3 then.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub(super) struct Args {
    /// The VM, if there is more than one, and then where to read: a guest-physical address, for 256
    /// bytes; a range FIRST-LAST, both included; or FIRST+SIZE. SIZE may end with K, M, G or T
    #[arg(value_name = "ADDRESS", required = true, num_args = 1..=2)]
    address: Vec<String>,
    /// The VM with this name, as `list` has it
    #[arg(short, long, value_name = "NAME")]
    name: Option<std::ffi::OsString>,
    /// Take the address for a guest-virtual one, by the page tables of a vCPU
    #[arg(long)]
    gva: bool,
    /// The number of that vCPU, as `regs` has it [default: the first]
    #[arg(long, value_name = "NUMBER", requires = "gva")]
    vcpu: Option<i32>,
    #[command(flatten)]
    freeze: FreezeArgs,
    /// Write raw bytes to this file, or with - to standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
    /// Replace a file that is there already
    #[arg(long, requires = "output")]
    force: bool,
}

/// Where to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    /// A range of guest-physical addresses.
    Physical(Range),
    /// A range of guest-virtual addresses.
    Virtual(Range),
}

impl Args {
    /// Returns which VM, and where to read.
    fn parse(&self) -> Result<(Selection, Address), Failure> {
        let (vm, address) = match self.address.as_slice() {
            [address] => (None, address),
            [vm, address] if self.name.is_none() => {
                let vm = vm.parse::<Selection>();
                (
                    Some(vm.map_err(|error| Failure::Usage(error.to_string()))?),
                    address,
                )
            }
            _ => {
                let line = "the VM is given by number and by name; give one of them";
                return Err(Failure::Usage(line.to_owned()));
            }
        };
        let selection = match (vm, &self.name) {
            (Some(vm), _) => vm,
            (None, Some(name)) => Selection::Name(name.clone()),
            (None, None) => Selection::Only,
        };
        let physical = if address.contains(['-', '+']) {
            range(address)
        } else {
            range(&format!("{address}+{DEFAULT_SIZE}"))
        };
        let range = physical.map_err(Failure::Usage)?;
        let address = if self.gva {
            Address::Virtual(range)
        } else {
            Address::Physical(range)
        };
        Ok((selection, address))
    }
}

pub(super) fn run(args: &Args, context: &mut Context) -> Result<Status, Failure> {
    let (selection, address) = args.parse()?;
    // Before a guest is looked at.
    let output = args
        .output
        .as_deref()
        .map(|path| open(path, args.force))
        .transpose()?;
    let opened = Opened::new(&selection, context)?;
    let session = &opened.session;
    let (range, pieces): (_, Box<dyn Iterator<Item = Result<Piece, Failure>>>) = match address {
        Address::Physical(range) => {
            let range = within_memory(session, range)?;
            let pieces = Pieces::new(session, range)?;
            (range, Box::new(pieces.map(|piece| Ok(piece?))))
        }
        Address::Virtual(range) => {
            let space = address_space(session, args)?;
            (range, Box::new(MappedPieces::new(session, space, range)?))
        }
    };
    let is_virtual = matches!(address, Address::Virtual(_));
    let missing = Cell::new(0_u64);
    let is_missing = |piece: &Piece| piece.kind.is_none_or(PageKind::is_missing);
    let pieces = pieces.inspect(|piece| {
        if let Some(piece) = piece.as_ref().ok().filter(|piece| is_missing(piece)) {
            missing.set(missing.get().saturating_add(piece.size));
        }
    });
    if let Some(output) = output {
        write_raw(output, range, pieces, context)?;
    } else if context.json {
        let object = json::Read {
            json_version: json::Version,
            vm: opened.json(),
            extent: json::Stream::new(
                pieces.map(|piece| piece.map(|piece| extent(&piece, is_virtual))),
            ),
        };
        json::write(context.terminal.out(), &object)?;
    } else {
        print(pieces, context)?;
    }
    if missing.get() == 0 {
        return Ok(Status::Done);
    }
    let size = Size(missing.get());
    context.terminal.note(format_args!(
        "{size} could not be read; see which pages with kvm-inspect read --json"
    ));
    Ok(Status::Incomplete)
}

fn open(path: &Path, force: bool) -> Result<Output, Failure> {
    let existing = if force {
        Existing::Replace
    } else {
        Existing::Refuse
    };
    Ok(Output::open(path, existing)?)
}

/// Returns the address space of a vCPU.
fn address_space(session: &Session, args: &Args) -> Result<AddressSpace, Failure> {
    let vcpus = session.vcpus(args.freeze.late(), args.freeze.timeout_ms())?;
    let mut vcpus = vcpus.vcpus.iter();
    let vcpu = vcpus.find(|vcpu| args.vcpu.is_none_or(|wanted| wanted == vcpu.id));
    let vcpu = vcpu
        .ok_or_else(|| Failure::Failed("there is no such vCPU; see kvm-inspect regs".to_owned()))?;
    let known = live::control_registers(std::slice::from_ref(vcpu));
    let registers = known.first().ok_or_else(|| {
        Failure::Failed(format!(
            "the page tables of vCPU {} are not known; give another one (--vcpu)",
            vcpu.id
        ))
    })?;
    Ok(AddressSpace::of(registers))
}

/// Returns the part of a range up to the end of the last memslot.
fn within_memory(session: &Session, range: Range) -> Result<Range, Failure> {
    let slots = session.slots()?;
    let normal = slots.iter().filter(|slot| slot.address_space == 0);
    let lasts = normal.filter_map(|slot| {
        let size = slot.pages.checked_mul(4096)?;
        slot.gpa.checked_add(size.checked_sub(1)?)
    });
    let last = lasts.max().filter(|last| *last >= range.first);
    let last = last.ok_or_else(|| {
        let first = range.first;
        Failure::Failed(format!(
            "the guest has no memory from {first:#x} on; see kvm-inspect slots"
        ))
    })?;
    Ok(Range {
        first: range.first,
        last: range.last.min(last),
    })
}

/// Writes bytes as they are; what is not there is zeros.
fn write_raw(
    mut output: Output,
    range: Range,
    pieces: impl Iterator<Item = Result<Piece, Failure>>,
    context: &Context,
) -> Result<(), Failure> {
    let mut bar = Bar::new(context.terminal.shows_progress());
    for piece in pieces {
        let piece = piece?;
        let offset = piece.address.saturating_sub(range.first);
        if let Some(bytes) = &piece.bytes {
            output.write_at(offset, bytes)?;
        }
        bar.set("read", offset.saturating_add(piece.size), range.size());
    }
    output.set_size(range.size())?;
    Ok(output.commit(None)?)
}

fn extent(piece: &Piece, is_virtual: bool) -> json::Extent {
    json::Extent {
        gva: is_virtual.then_some(json::Hex(piece.address)),
        gpa: piece.gpa,
        size: piece.size,
        kind: piece.kind.map_or("not_mapped", PageKind::name).to_owned(),
        bytes: piece.bytes.as_deref().map(hex::digits),
    }
}

fn print(
    pieces: impl Iterator<Item = Result<Piece, Failure>>,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut dump = HexDump::new(context.terminal.out());
    for piece in pieces {
        let piece = piece?;
        if let Some(bytes) = &piece.bytes {
            dump.bytes(piece.address, bytes)?;
        } else {
            let last = piece.address.saturating_add(piece.size.saturating_sub(1));
            let count = Count(piece.size, "byte");
            let kind = piece.kind.map_or("not mapped", PageKind::name);
            dump.text(&format!(
                "{:012x}-{last:012x}  {kind}, {count}",
                piece.address
            ))?;
        }
    }
    dump.finish()?;
    Ok(context.terminal.out().flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        _global: super::super::Global,
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Result<(Selection, u64, u64), Failure> {
        let line = Line::try_parse_from([&["read"], arguments].concat()).expect("arguments");
        let (selection, address) = line.args.parse()?;
        let (Address::Physical(range) | Address::Virtual(range)) = address;
        Ok((selection, range.first, range.last))
    }

    #[test]
    fn an_address_may_have_a_size_and_a_vm() {
        let only = Selection::Only;
        assert_eq!(parse(&["0x1000"]), Ok((only.clone(), 0x1000, 0x10ff)));
        assert_eq!(parse(&["812"]), Ok((only.clone(), 812, 812 + 255)));
        assert_eq!(
            parse(&["1M+4K"]),
            Ok((only.clone(), 1 << 20, (1 << 20) + 4095))
        );
        assert_eq!(parse(&["812-900"]), Ok((only, 812, 900)));
        let vm = Selection::PidFd(812, 9);
        assert_eq!(parse(&["812-9", "0-0xff"]), Ok((vm, 0, 255)));
        let name = Selection::Name("web".into());
        assert_eq!(parse(&["--name", "web", "0+1"]), Ok((name, 0, 0)));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for arguments in [
            &["x"][..],
            &["9-1"],
            &["0+0"],
            &["web", "0"],
            &["812", "0", "--name", "web"],
            &["0xffffffffffffffff"],
        ] {
            let Err(Failure::Usage(line)) = parse(arguments) else {
                panic!("{arguments:?} are taken");
            };
            assert!(line.contains("; "), "{line}");
        }
    }

    #[test]
    fn a_file_of_raw_bytes_has_zeros_where_nothing_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("raw");
        let piece = |gpa, size, bytes: Option<&[u8]>| {
            Ok(Piece {
                address: gpa,
                gpa: Some(gpa),
                size,
                kind: Some(PageKind::Swapped),
                bytes: bytes.map(<[u8]>::to_vec),
            })
        };
        let pieces = [
            piece(0x1001, 2, None),
            piece(0x1003, 2, Some(b"ab")),
            piece(0x1005, 3, None),
        ];
        let range = Range {
            first: 0x1001,
            last: 0x1007,
        };
        let context = Context {
            host: crate::host::Host::default(),
            terminal: super::super::Terminal::new(true),
            json: false,
        };
        let output = open(&path, false).expect("a file");
        write_raw(output, range, pieces.into_iter(), &context).expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), b"\0\0ab\0\0\0");
        assert!(open(&path, false).is_err());
        assert!(open(&path, true).is_ok());
    }
}
