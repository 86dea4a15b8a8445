// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect dump`: the guest's memory and registers, in a file.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::ValueEnum;

use super::{
    arguments::size,
    bar::Bar,
    failure::{Failure, Status},
    units::{milliseconds, Size, Time},
    vm::Opened,
    Context,
};
use crate::{
    core::PageKind,
    dump::{self, DumpError, Dumped, Options, Stage},
    escape::Escaped,
    host::Selection,
    json,
    manifest::{self, Manifest, Mode},
    output::{manifest_path, Existing, Output},
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect dump guest.core
  kvm-inspect dump 812 guest.core --max-pause 50ms
  kvm-inspect dump --name web guest.lime --format lime --consistency live
  kvm-inspect dump 812 --consistency live -o - | zstd | ssh safe 'cat > guest.core.zst'
  kvm-inspect dump 812 guest.core && drgn -c guest.core -s vmlinux";

const USAGE: &str = "kvm-inspect dump [OPTIONS] [VM] <FILE>\n       \
    kvm-inspect dump [OPTIONS] [VM] --output <FILE>";

/// Writes memory and registers of the guest to a file
///
/// The file is an ELF core for drgn, crash, makedumpfile, Volatility, LeechCore and yara; what gdb
/// needs beyond that, others refuse. Beside it, FILE.json says what is in it, what is missing, and
/// how long the guest stood. Memory is copied while the guest runs; then it stands for a moment in
/// which what has changed is copied once more. The exit status is 3 if something is missing.
///
/// With - as FILE it goes to standard output, without a file beside it. A live dump goes there page
/// by page. Any other is first made in a file without a name, in TMPDIR or /var/tmp, which needs
/// space.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
#[allow(clippy::doc_markdown, reason = "it is help, and no Markdown")]
pub(super) struct Args {
    /// The VM, if there is more than one, and then the file
    #[arg(value_name = "FILE", required_unless_present = "output", num_args = 1..=2)]
    file: Vec<PathBuf>,
    /// The file, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write what else would be in FILE.json to this file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Leave out the SHA-256 digest of the file, which takes a while
    #[arg(long)]
    no_digest: bool,
    /// The VM with this name, as `list` has it
    #[arg(short, long, value_name = "NAME")]
    name: Option<std::ffi::OsString>,
    /// The form of the file
    #[arg(long, value_enum, default_value = "elf")]
    format: Format,
    /// Whether all is to be of one instant
    #[arg(long, value_enum, default_value = "instant")]
    consistency: Consistency,
    /// The longest pause of the guest, such as 50ms or 2s, up to 60s
    #[arg(long, value_name = "TIME", value_parser = max_pause, default_value = "1s")]
    max_pause: u32,
    /// How much may be copied in the pause, which takes as much memory; and 10 bytes for each page
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1G")]
    memory: u64,
    /// How long to wait for all vCPUs to stop, such as 500ms or 2s [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    freeze_timeout: Option<u32>,
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An ELF core for all but gdb
    Elf,
    /// An ELF core with what the guest's kernel has mapped
    Gdb,
    /// LiME
    #[allow(clippy::doc_markdown, reason = "it is help, and no Markdown")]
    Lime,
    /// Each byte at the offset that is its guest-physical address
    Raw,
}

/// How far a file is of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// Of one instant, in one pause
    Instant,
    /// Of no instant: the guest runs
    Live,
}

/// Reads the longest pause, which a hold may last.
fn max_pause(text: &str) -> Result<u32, String> {
    let time = milliseconds(text)?;
    if time > 60_000 {
        return Err(format!("{text} is out of range; write at most 60s"));
    }
    Ok(time)
}

impl Args {
    /// Returns which VM, and the file.
    fn parse(&self) -> Result<(Selection, &Path), Failure> {
        let usage = |line: &str| Failure::Usage(format!("{line}; see kvm-inspect dump --help"));
        if let ([word], None) = (self.file.as_slice(), &self.output) {
            let text = word.to_str().unwrap_or_default();
            if text.parse::<Selection>().is_ok() {
                return Err(usage(&format!(
                    "{text} is a VM, and a file is missing (./{text} would be one)"
                )));
            }
        }
        let (vm, file) = match (self.file.as_slice(), &self.output) {
            ([], Some(file)) | ([file], None) => (None, file),
            ([vm], Some(file)) | ([vm, file], None) => (Some(vm), file),
            _ => return Err(usage("there are two files; give one of them")),
        };
        let selection = match (vm, &self.name) {
            (None, None) => Selection::Only,
            (None, Some(name)) => Selection::Name(name.clone()),
            (Some(vm), None) => {
                let text = vm.to_str().unwrap_or_default();
                let vm = text.parse::<Selection>();
                vm.map_err(|error| usage(&error.to_string()))?
            }
            (Some(_), Some(_)) => {
                return Err(usage("there is a VM and its name; give one of them"));
            }
        };
        Ok((selection, file))
    }

    /// Opens what the dump is written to, and what its manifest is, if that is not beside it.
    fn open(&self, path: &Path) -> Result<(Output, Option<Output>), Failure> {
        let existing = if self.force {
            Existing::Replace
        } else {
            Existing::Refuse
        };
        let output = match (is_piped(path), self.consistency) {
            (false, _) => Output::create(path, existing)?,
            (true, Consistency::Live) => Output::stdout()?,
            (true, Consistency::Instant) => Output::spooled()?,
        };
        let manifest = self.manifest.as_deref();
        let manifest = manifest.map(|path| Output::create_alone(path, existing));
        Ok((output, manifest.transpose()?))
    }

    fn options(&self, path: &Path) -> Options {
        Options {
            format: match self.format {
                Format::Elf => manifest::Format::Elf,
                Format::Gdb => manifest::Format::ElfGdb,
                Format::Lime => manifest::Format::Lime,
                Format::Raw => manifest::Format::Raw,
            },
            mode: match self.consistency {
                Consistency::Instant => Mode::Instant,
                Consistency::Live => Mode::Live,
            },
            max_pause_ms: self.max_pause,
            memory: self.memory,
            freeze_timeout_ms: self.freeze_timeout.unwrap_or(0),
            // Only a manifest has the digest.
            is_digested: !self.no_digest && (!is_piped(path) || self.manifest.is_some()),
        }
    }
}

pub(super) fn run(args: &Args, context: &mut Context) -> Result<Status, Failure> {
    let (selection, path) = args.parse()?;
    let wrong = match (is_piped(path), context.json, &args.manifest) {
        (true, true, _) => {
            "the dump itself goes to standard output; take --manifest, and not --json"
        }
        (false, _, Some(_)) => "the manifest is beside the file; leave --manifest out",
        (true, _, Some(beside)) if is_piped(beside) => {
            "the dump itself goes to standard output; give --manifest a file"
        }
        _ => "",
    };
    if !wrong.is_empty() {
        return Err(Failure::Usage(wrong.to_owned()));
    }
    // Before a guest is looked at.
    let (output, beside) = args.open(path)?;
    let opened = Opened::new(&selection, context)?;
    let inspected = opened.json();
    let vm = manifest::Vm {
        pid: opened.attached.pid,
        fd: opened.attached.fd,
        name: inspected.name.clone(),
        vmm: Some(opened.vm.program.to_string_lossy().into_owned()),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut bar = Bar::new(context.terminal.shows_progress());
    let Dumped { manifest, is_whole } = dump::dump(
        &opened.session,
        vm,
        output,
        &name,
        &args.options(path),
        &mut |stage, done, all| {
            let what = match stage {
                Stage::Look => "looked at",
                Stage::Copy => "copied",
                Stage::Again => "copied again",
                Stage::Digest => "digested",
            };
            bar.set(what, done, all);
        },
    )?;
    drop(bar);
    if let Some(mut beside) = beside {
        let text = manifest.to_json().map_err(DumpError::from)?;
        beside.write_at(0, text.as_bytes())?;
        beside.commit(None)?;
    }
    if context.json {
        json::write(context.terminal.out(), &manifest)?;
    } else if is_piped(path) {
        let mut lines = Vec::new();
        print(&manifest, path, &mut lines)?;
        String::from_utf8_lossy(&lines)
            .lines()
            .for_each(|line| context.terminal.note(line));
    } else {
        print(&manifest, path, context.terminal.out())?;
    }
    Ok(if is_whole {
        Status::Done
    } else {
        Status::Incomplete
    })
}

/// Returns whether a file goes to standard output.
fn is_piped(path: &Path) -> bool {
    path == Path::new("-")
}

fn print(manifest: &Manifest, path: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let pause = Time(manifest.consistency.paused_us.saturating_mul(1000));
    let pages = |kind: &PageKind| manifest.memory.pages.get(kind).copied().unwrap_or(0);
    let bytes = |pages: u64| Size(pages.saturating_mul(crate::core::PAGE_SIZE));
    let copied = pages(&PageKind::Present).saturating_add(pages(&PageKind::Late));
    let instant = match manifest.consistency.mode {
        Mode::Instant => "of one instant",
        _ => "of no single instant",
    };
    let name = if is_piped(path) {
        "standard output".as_bytes()
    } else {
        path.as_os_str().as_encoded_bytes()
    };
    writeln!(
        out,
        "{}: {} of memory, {instant}; the guest stood for {pause}.",
        Escaped::new(name),
        bytes(copied)
    )?;
    if !is_piped(path) {
        let beside = manifest_path(path);
        let beside = beside.as_os_str().as_encoded_bytes();
        writeln!(out, "{} says what is in it.", Escaped::new(beside))?;
    }
    for (kind, count) in dump::missing(manifest) {
        let name = serde_json::to_string(&kind).unwrap_or_default();
        let name = name.trim_matches('"');
        writeln!(out, "missing: {} ({name})", bytes(count))?;
    }
    for warning in &manifest.warnings {
        writeln!(out, "{warning}")?;
    }
    Ok(())
}

impl From<DumpError> for Failure {
    fn from(error: DumpError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &str) -> Args {
        let words = std::iter::once("dump").chain(words.split_whitespace());
        Command::parse_from(words).args
    }

    #[test]
    fn the_file_is_the_last_word_or_an_option() {
        let of = |words| {
            let args = args(words);
            let (selection, path) = args.parse().map_err(|failure| failure.to_string())?;
            Ok::<_, String>((format!("{selection:?}"), path.display().to_string()))
        };
        let only = format!("{:?}", Selection::Only);
        let vm = format!("{:?}", "812-9".parse::<Selection>().expect("a VM"));
        let both = |selection: &str, path: &str| Ok((selection.to_owned(), path.to_owned()));
        assert_eq!(of("core"), both(&only, "core"));
        assert_eq!(of("-o core"), both(&only, "core"));
        assert_eq!(of("812-9 core"), both(&vm, "core"));
        assert_eq!(of("812-9 -o -"), both(&vm, "-"));
        assert_eq!(of("812-9 -"), both(&vm, "-"));
        assert!(
            of("812-9 core -o core").is_err_and(|line| line.starts_with("there are two files;"))
        );
        assert!(of("812").is_err_and(|line| line.starts_with("812 is a VM, and a file is")));
        assert_eq!(of("./812"), both(&only, "./812"));
        assert!(Command::try_parse_from(["dump", "core", "--max-pause", "61s"]).is_err());
        assert!(of("812-9 core --name x").is_err_and(|line| line.starts_with("there is a VM and")));
    }

    #[test]
    fn a_digest_is_made_if_there_is_a_place_for_it() {
        for (words, is_digested) in [
            ("core", true),
            ("core --no-digest", false),
            ("-", false),
            ("- --manifest core.json", true),
        ] {
            let args = args(words);
            let (_, path) = args.parse().expect("a file");
            assert_eq!(args.options(path).is_digested, is_digested, "{words}");
        }
    }
}
