// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect schema`: what `--json` prints.

use std::io::Write;

use super::{
    failure::{Failure, Status},
    Context,
};
use crate::json;

const EXAMPLES: &str = "\
Examples:
  kvm-inspect schema > kvm-inspect.schema.json
  kvm-inspect schema | jq '.\"$defs\".Regs'";

/// Prints the schema of what --json prints (JSON Schema, draft 2020-12)
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = EXAMPLES)]
pub(super) struct Args {}

pub(super) fn run(_: &Args, context: &mut Context) -> Result<Status, Failure> {
    writeln!(context.terminal.out(), "{:#}", json::schema().to_value())?;
    Ok(Status::Done)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            arguments::{Access, Engine},
            guest, search,
        },
        *,
    };
    use crate::{device, linux::Proof};

    /// Checks that the schema has all words for a member.
    fn check<'a>(object: &str, member: &str, words: impl IntoIterator<Item = &'a str>) {
        let schema = json::schema().to_value();
        let known = &schema["$defs"][object]["properties"][member]["enum"];
        let known = known.as_array().expect("words");
        for word in words {
            assert!(known.iter().any(|known| known == word), "{member}: {word}");
        }
    }

    #[test]
    fn the_schema_has_each_word() {
        let numbers = 0..16;
        let results = numbers.clone().map(|number| {
            let conclusion = device::conclusion(number);
            search::word(conclusion)
        });
        check("Done", "result", results);
        check("Done", "engine", numbers.clone().map(Engine::name));
        check("Done", "access", numbers.map(Access::name));
        let proofs = [Proof::Pointer, Proof::Root, Proof::None, Proof::Refuted];
        check("Candidate", "proof", proofs.map(guest::word));
    }
}
