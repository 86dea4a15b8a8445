// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect slots`: the guest's memory.

use std::io::Write;

use super::{
    bar::Bar,
    failure::{Failure, Status},
    terminal::Terminal,
    units::Size,
    vm::{Opened, VmArgs},
    Context,
};
use crate::{device::PageKind, json};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect slots 812
  kvm-inspect slots --fast --name web
  kvm-inspect slots 812 --json | jq '.memory | {present, swapped}'";

/// Shows the memslots, and what their pages are
///
/// A memslot is memory that the VMM has given to the guest by KVM. The guest runs meanwhile. Pages
/// are looked at where they are; nothing is brought in. Kinds: present, untouched and unmapped (no
/// content), swapped, in_file, userfault, poisoned, device, unreadable, private.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown, reason = "it is help, and no Markdown")]
pub(super) struct Args {
    #[command(flatten)]
    vm: VmArgs,
    /// Show the memslots only; do not look at their pages
    #[arg(long)]
    fast: bool,
}

pub(super) fn run(args: &Args, context: &mut Context) -> Result<Status, Failure> {
    let opened = Opened::new(&args.vm.selection(), context)?;
    let mut slots: Vec<_> = opened
        .session
        .slots()?
        .iter()
        .map(json::Slot::new)
        .collect();
    let memory = if args.fast {
        None
    } else {
        Some(count(&mut slots, &opened, &context.terminal)?)
    };
    let object = json::Slots {
        json_version: json::Version,
        vm: opened.json(),
        slot: slots,
        memory,
    };
    if context.json {
        json::write(context.terminal.out(), &object)?;
    } else {
        print(&object, &mut context.terminal)?;
    }
    Ok(Status::Done)
}

/// Counts the pages of each slot, and returns those of all.
fn count(
    slots: &mut [json::Slot],
    opened: &Opened,
    terminal: &Terminal,
) -> Result<json::Pages, Failure> {
    let mut bar = Bar::new(terminal.shows_progress());
    let pages = slots
        .iter()
        .map(|slot| slot.pages)
        .fold(0, u64::saturating_add);
    let (mut done, mut all) = (0_u64, json::Kinds::default());
    for slot in slots {
        let mut kinds = json::Kinds::default();
        let space = slot.address_space.into();
        for extent in opened.session.present(slot.gpa, slot.pages, space) {
            let extent = extent?;
            let kind = PageKind::new(extent.kind);
            kinds.add(kind, extent.pages);
            all.add(kind, extent.pages);
            done = done.saturating_add(extent.pages);
            bar.set(
                "looked at",
                done.saturating_mul(4096),
                pages.saturating_mul(4096),
            );
        }
        slot.kinds = Some(kinds);
    }
    Ok(json::Pages::new(all))
}

fn print(object: &json::Slots, terminal: &mut Terminal) -> Result<(), Failure> {
    terminal.heading(&format!(
        "{:<2} {:>5}  {:<33}  {:>16} {:>10}  PAGES",
        "AS", "ID", "GPA", "HVA", "SIZE"
    ))?;
    for slot in &object.slot {
        writeln!(terminal.out(), "{}", line(slot))?;
    }
    if let Some(memory) = object.memory.filter(|_| !terminal.is_quiet()) {
        let size = Size(memory.pages.saturating_mul(4096));
        writeln!(terminal.out(), "All: {size}; {}", kinds(memory.kinds))?;
    }
    Ok(())
}

/// Returns the line of a slot.
fn line(slot: &json::Slot) -> String {
    let size = slot.pages.saturating_mul(4096);
    let last = slot.gpa.saturating_add(size.saturating_sub(1));
    let mut words = slot.flags.clone();
    words.extend(slot.kinds.map(kinds).filter(|kinds| !kinds.is_empty()));
    let line = format!(
        "{:<2} {:>5}  {:016x}-{last:016x}  {:>16x} {:>10}  {}",
        slot.address_space,
        slot.id,
        slot.gpa,
        slot.hva.0,
        Size(size),
        words.join(" ")
    );
    line.trim_end().to_owned()
}

/// Returns the counts that are not 0.
fn kinds(kinds: json::Kinds) -> String {
    let counts = kinds.named().into_iter().filter(|(_, count)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(name, count)| format!("{name}={count}"))
        .collect();
    counts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_a_line() {
        let kinds = [(PageKind::Present, 3), (PageKind::Swapped, 1)];
        let slot = json::Slot {
            address_space: 0,
            id: 2,
            gpa: 0x10_0000,
            hva: json::Hex(0x7efc_b3f0_0000),
            flags: vec!["readonly".to_owned()],
            pages: 4,
            kinds: Some(kinds.into_iter().collect()),
        };
        let expected = "0      2  0000000000100000-0000000000103fff      7efcb3f00000   16.0 KiB";
        assert_eq!(
            line(&slot),
            format!("{expected}  readonly present=3 swapped=1")
        );
    }
}
