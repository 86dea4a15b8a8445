// SPDX-License-Identifier: GPL-2.0

//! A guest's memory and registers, in a file.
//!
//! All pages are copied into the file while the guest runs, each with a digest. That is all for a
//! live dump. For one of an instant, what has changed meanwhile is copied again, until it is
//! little. Then the guest is held: all pages are digested once more, what differs is copied into
//! memory, and the guest goes on. So what was not copied in the pause is what was there in the
//! pause, and no disk is waited for while the guest stands.
//!
//! A pipe gets a live dump page by page. One of an instant does not exist before its pause, and
//! needs a place that can be written again ([`Output::spooled`]).

mod image;

use std::{
    error::Error,
    fmt::{self, Display},
    time::{Duration, Instant, SystemTime},
};

use kvm_inspect_pure::uapi;
use rustix::io::Errno;

use self::image::Image;
use crate::{
    core::{
        elf::{self, ElfError},
        lime, raw, CpuNote, Layout, Notes, PageKind, RangeError, Ranges, WriteError, Writer,
        Written,
    },
    device::{self, CopyTerms, Late, Session},
    guest::GuestMemory,
    linux::{self, CpuNumbers, DirectMap, Proof},
    live::{self, LiveMemory},
    manifest::{
        self, Address, Clock, Consistency, FileEntry, Format, Host, Manifest, ManifestError,
        Memory, Mode, Tool, VcpuState, Vmcoreinfo,
    },
    output::{Output, OutputError},
    paging::RunLimit,
    registers::Registers,
};

/// How often what has changed is copied again, before the pause.
const MAX_ROUNDS: u32 = 4;

/// A guest has changed little if it has changed one page of so many.
const FEW: usize = 256;

/// How much of the file's beginning is left for notes that grow.
const ROOM: u64 = 64 << 10;

/// How much is left for the notes of each vCPU.
const ROOM_FOR_VCPU: u64 = 1024;

/// How many vCPUs may come while the dump is made.
const SPARE_VCPUS: u64 = 64;

/// How much is left for what the kernel has mapped: the most segments that a file may have.
const ROOM_FOR_MAPPINGS: u64 = 65536 * elf::SEGMENT_SIZE as u64;

/// What file is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its form.
    pub format: Format,
    /// Whether it is to be of one instant.
    pub mode: Mode,
    /// How long the guest may stand, in milliseconds: 1 to 60000.
    pub max_pause_ms: u32,
    /// How many bytes may be copied in the pause, which takes as much memory.
    pub memory: u64,
    /// How long to wait for all vCPUs to stop, in milliseconds; 0: a second.
    pub freeze_timeout_ms: u32,
    /// Whether the manifest has the file's SHA-256 digest.
    pub is_digested: bool,
}

impl Options {
    fn is_elf(&self) -> bool {
        matches!(self.format, Format::Elf | Format::ElfGdb)
    }
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Pages are looked at, for VMCOREINFO.
    Look,
    /// Pages are copied while the guest runs.
    Copy,
    /// What has changed meanwhile is copied again.
    Again,
    /// The file is digested.
    Digest,
}

/// A file that was written.
#[derive(Clone, Debug)]
pub struct Dumped {
    /// What is in it.
    pub manifest: Manifest,
    /// All that was asked for is.
    pub is_whole: bool,
}

/// Writes a guest to a file, and gives the file its name. `name` is its name without the folder, if
/// it has one; `progress` is told what is being done, and how many bytes of how many are.
///
/// # Errors
///
/// See [`DumpError`]. There is no file then.
pub fn dump(
    session: &Session,
    vm: manifest::Vm,
    mut output: Output,
    name: &str,
    options: &Options,
    progress: &mut dyn FnMut(Stage, u64, u64),
) -> Result<Dumped, DumpError> {
    let clock = Clock::start();
    if options.mode == Mode::Instant && !output.is_patchable() {
        return Err(OutputError::OutOfOrder.into());
    }
    if !options.is_digested {
        output.leave_undigested();
    }
    let memory = LiveMemory::new(session)?;
    let ranges = memory.ranges().iter();
    let ranges = ranges.map(|range| crate::core::Range::new(range.start, range.end - range.start));
    let ranges = Ranges::new(ranges)?;
    let terms = CopyTerms {
        freeze_timeout_ms: options.freeze_timeout_ms,
        max_pause_ms: uapi::NO_LIMIT,
        ..CopyTerms::default()
    };

    let vcpus = session.vcpus(Late::Refuse, options.freeze_timeout_ms)?;
    let mut pauses = vec![Duration::from_nanos(vcpus.pause_ns)];
    let mut moment = Moment {
        vcpus: vcpus.vcpus,
        time: None,
        mappings: Vec::new(),
        are_all_mappings: true,
    };
    let room = room(&moment, options);
    let control = live::control_registers(&moment.vcpus);
    let mut facts = Facts::default();
    let mut note = String::new();
    // A file gets its notes when they are known. A pipe gets them first.
    let is_first = !output.is_patchable() && options.is_elf();
    if is_first {
        let candidates = memory.candidates(|done, all| progress(Stage::Look, done, all))?;
        let proofs = linux::prove(&memory, &candidates, &control);
        facts = Facts::of(&proofs, &moment.vcpus);
        moment.map(kernel_for_gdb(&proofs, options));
        note = Manifest::early_note(&vm, &facts.vcpus(&moment.vcpus));
    }
    let layout = facts.layout(&ranges, &moment, note, room, options)?;
    let mut writer = Writer::begin(output, layout)?;
    let mut image = Image::new(session, &ranges)?;
    let all = bytes(image.pages());
    let begun = Instant::now();
    image.copy_all(&mut writer, |done| progress(Stage::Copy, bytes(done), all))?;
    let copied_in = begun.elapsed();

    if !is_first {
        let proofs = linux::prove(&memory, &image.candidates, &control);
        let kernel = kernel_for_gdb(&proofs, options);
        facts = Facts::of(&proofs, &moment.vcpus);
        if options.mode == Mode::Instant {
            let rate = Rate::of(image.present(), copied_in);
            converge(&mut image, &mut writer, terms, &rate, options, progress)?;
            let (taken, pause) = pause(&mut image, &mut writer, terms, kernel, &memory, options)?;
            moment = taken;
            pauses.push(pause);
        } else {
            moment.map(kernel);
        }
    }
    // In a pause that is an error.
    let has_changed =
        options.mode == Mode::Live && LiveMemory::new(session)?.ranges() != memory.ranges();
    let lacks = Facts::lacks(&moment, has_changed, options);

    let mut manifest = Manifest {
        manifest_version: manifest::VERSION,
        tool: Tool::default(),
        host: Host::this(),
        vm,
        file: FileEntry {
            name: name.to_owned(),
            format: options.format,
            size: writer.layout().size(),
            sha256: None,
        },
        times: clock.stop(moment.time),
        consistency: consistency(options.mode, &pauses),
        memory: Memory::new(writer.layout(), writer.pages()),
        vcpus: facts.vcpus(&moment.vcpus),
        direct_map_base: facts.direct_map.map(Address),
        vmcoreinfo: facts.vmcoreinfo.as_ref().map(|(gpa, text)| Vmcoreinfo {
            gpa: *gpa,
            size: text.len() as u64,
            proofs: facts.proofs.clone(),
        }),
        warnings: [facts.warnings(&moment, options), lacks.clone()].concat(),
    };
    if writer.is_patchable() {
        let layout = facts.layout(&ranges, &moment, manifest.note(), room, options)?;
        writer.replace_headers(layout)?;
    }
    let Written { output, .. } = writer.finish()?;
    if options.is_digested {
        let size = manifest.file.size;
        let digest = output.sha256(&mut |done| progress(Stage::Digest, done, size))?;
        manifest.file.set_digest(&digest);
    }
    let beside = output.path().map(|_| manifest.to_json());
    let beside = beside.transpose()?;
    output.commit(beside.as_deref().map(str::as_bytes))?;
    Ok(Dumped {
        is_whole: lacks.is_empty() && missing(&manifest).next().is_none(),
        manifest,
    })
}

/// Returns the kinds of pages that are missing in a file, and how many there are.
pub fn missing(manifest: &Manifest) -> impl Iterator<Item = (PageKind, u64)> + '_ {
    let mode = manifest.consistency.mode;
    let pages = manifest.memory.pages.iter();
    pages
        .map(|(kind, count)| (*kind, *count))
        .filter(move |(kind, count)| *count > 0 && is_missing(*kind, mode))
}

/// Returns whether pages of a kind lack what was asked for. In a live dump, no instant was.
fn is_missing(kind: PageKind, mode: Mode) -> bool {
    !kind.is_faithful() && (mode != Mode::Live || kind != PageKind::Late)
}

fn consistency(mode: Mode, pauses: &[Duration]) -> Consistency {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Consistency {
        mode,
        pauses: u32::try_from(pauses.len()).unwrap_or(u32::MAX),
        paused_us: micros(pauses.iter().sum()),
        longest_pause_us: micros(pauses.iter().max().copied().unwrap_or_default()),
    }
}

/// Returns the kernel whose mappings are to be in the file.
fn kernel_for_gdb<'a>(
    proofs: &'a linux::Proofs<'_>,
    options: &Options,
) -> Option<&'a linux::Kernel<'a>> {
    let kernel = proofs.taken()?.kernel.as_ref().ok();
    kernel.filter(|_| options.format == Format::ElfGdb)
}

/// Returns how much of the file's beginning is left for what is known at the end only.
fn room(moment: &Moment, options: &Options) -> u64 {
    let vcpus = u64::try_from(moment.vcpus.len()).unwrap_or(0);
    let vcpus = vcpus.saturating_add(SPARE_VCPUS);
    let room = ROOM.saturating_add(vcpus.saturating_mul(ROOM_FOR_VCPU));
    match options.format {
        Format::ElfGdb => room.saturating_add(ROOM_FOR_MAPPINGS),
        _ => room,
    }
}

/// How fast pages are copied and compared.
struct Rate {
    /// How long a copy of a page takes.
    copy: Duration,
}

impl Rate {
    fn of(pages: usize, took: Duration) -> Self {
        let pages = u32::try_from(pages.max(1)).unwrap_or(u32::MAX);
        Self { copy: took / pages }
    }

    /// Returns how long the pause will be at most, if `changed` pages must be copied in it, and to
    /// compare all takes so long.
    fn pause(&self, changed: usize, compare: Duration) -> Duration {
        let changed = u32::try_from(changed).unwrap_or(u32::MAX);
        compare.saturating_add(self.copy.saturating_mul(changed))
    }
}

/// Copies again what has changed, until that is little, or does not get less.
fn converge(
    image: &mut Image<'_>,
    writer: &mut Writer,
    terms: CopyTerms,
    rate: &Rate,
    options: &Options,
    progress: &mut dyn FnMut(Stage, u64, u64),
) -> Result<(), DumpError> {
    let mut before = usize::MAX;
    for round in 1.. {
        let begun = Instant::now();
        let changed = image.compare(false, terms)?;
        let compare = begun.elapsed();
        let is_little = changed.pages <= image.pages() / FEW;
        if is_little || changed.pages >= before || round == MAX_ROUNDS {
            let expected = rate.pause(changed.pages, compare);
            if expected > Duration::from_millis(options.max_pause_ms.into()) {
                return Err(DumpError::TooLong { expected });
            }
            check_memory(changed.pages, options)?;
            return Ok(());
        }
        before = changed.pages;
        progress(Stage::Again, 0, bytes(changed.pages));
        image.copy_changed(&changed, writer)?;
    }
    Ok(())
}

fn check_memory(pages: usize, options: &Options) -> Result<(), DumpError> {
    let needed = bytes(pages);
    if needed > options.memory {
        return Err(DumpError::TooMuch { needed });
    }
    Ok(())
}

/// What is known of the instant of the file.
struct Moment {
    vcpus: Vec<uapi::Vcpu>,
    /// When that was; [`None`]: there was none.
    time: Option<SystemTime>,
    /// What the kernel had mapped, for gdb.
    mappings: Vec<elf::Mapping>,
    /// Whether that is all.
    are_all_mappings: bool,
}

impl Moment {
    /// Notes what a kernel has mapped now.
    fn map(&mut self, kernel: Option<&linux::Kernel<'_>>) {
        let Some(kernel) = kernel else {
            return;
        };
        kernel.memory().forget_tables();
        for run in kernel.mappings(RunLimit::default()) {
            let Ok(run) = run else {
                self.are_all_mappings = false;
                break;
            };
            self.mappings.push(elf::Mapping {
                gva: run.gva,
                gpa: run.gpa,
                size: run.length,
            });
        }
    }
}

/// Holds the guest, and takes what has changed, its registers, and what its kernel has mapped.
/// Returns how long it stood, too.
fn pause(
    image: &mut Image<'_>,
    writer: &mut Writer,
    terms: CopyTerms,
    kernel: Option<&linux::Kernel<'_>>,
    memory: &LiveMemory<'_>,
    options: &Options,
) -> Result<(Moment, Duration), DumpError> {
    let session = memory.session();
    let hold = session.hold(
        options.max_pause_ms,
        options.freeze_timeout_ms,
        Late::Refuse,
    )?;
    let time = SystemTime::now();
    let taken = (|| {
        let vcpus = session.vcpus(Late::Refuse, options.freeze_timeout_ms)?;
        if LiveMemory::new(session)?.ranges() != memory.ranges() {
            return Err(DumpError::Changed);
        }
        let changed = image.compare(true, terms)?;
        check_memory(changed.pages, options)?;
        let taken = image.take_changed(&changed, terms)?;
        let mut moment = Moment {
            vcpus: vcpus.vcpus,
            time: Some(time),
            mappings: Vec::new(),
            are_all_mappings: true,
        };
        moment.map(kernel);
        Ok::<_, DumpError>((moment, taken))
    })();
    let released = hold.release();
    let (moment, taken) = taken?;
    let released = released?;
    if released.is_expired {
        return Err(DumpError::Expired);
    }
    image.put_changed(&taken, writer)?;
    Ok((moment, Duration::from_nanos(released.pause_ns)))
}

/// What is known of the guest's kernel.
#[derive(Default)]
struct Facts {
    /// Where VMCOREINFO is, and its text.
    vmcoreinfo: Option<(u64, String)>,
    proofs: Vec<manifest::Proof>,
    is_ambiguous: bool,
    direct_map: Option<u64>,
    /// The kernel's numbers of the vCPUs.
    cpus: Option<Vec<u32>>,
}

impl Facts {
    fn of(proofs: &linux::Proofs<'_>, vcpus: &[uapi::Vcpu]) -> Self {
        let Some(taken) = proofs.taken() else {
            return Self::default();
        };
        let kernel = taken.kernel.as_ref().ok();
        let symbols = taken.pointer.as_ref().ok();
        let numbers = kernel.zip(symbols);
        let numbers = numbers.and_then(|(kernel, symbols)| CpuNumbers::read(kernel, symbols));
        let ids: Vec<u32> = vcpus.iter().map(|vcpu| vcpu.id.unsigned_abs()).collect();
        let mut all = Vec::new();
        if taken.proof() >= Proof::Root {
            all.extend([manifest::Proof::RootMapsItself, manifest::Proof::Release]);
        }
        if taken.proof() == Proof::Pointer {
            all.push(manifest::Proof::Kallsyms);
        }
        Self {
            vmcoreinfo: Some((taken.note.gpa, taken.note.info.text().to_owned())),
            proofs: all,
            is_ambiguous: proofs.is_ambiguous,
            direct_map: kernel.and_then(|kernel| Some(DirectMap::find(kernel, symbols)?.base)),
            cpus: numbers
                .and_then(|numbers| numbers.numbers(&ids))
                .filter(|numbers| are_all(numbers)),
        }
    }

    /// Returns the layout of the file.
    fn layout(
        &self,
        ranges: &Ranges,
        moment: &Moment,
        own: String,
        room: u64,
        options: &Options,
    ) -> Result<Layout, DumpError> {
        let numbers = self.numbers(moment.vcpus.len());
        let cpus = numbers.zip(&moment.vcpus).map(|(cpu, vcpu)| CpuNote {
            cpu,
            registers: has_registers(vcpu).then(|| Registers::from(vcpu)),
        });
        let text = self.vmcoreinfo.as_ref();
        let notes = Notes {
            cpus: cpus.collect(),
            vmcoreinfo: text.map(|(_, text)| text.clone().into_bytes()),
            own,
        };
        let elf_options = elf::Options {
            direct_map_base: self.direct_map,
            room,
            kernel_mappings: moment.mappings.clone(),
        };
        Ok(match options.format {
            Format::Lime => lime::layout(ranges),
            Format::Raw => raw::layout(ranges),
            Format::Elf | Format::ElfGdb => elf::layout(ranges, &notes, &elf_options)?,
        })
    }

    /// Returns the kernel's numbers of so many vCPUs, if they are known.
    fn known_numbers(&self, count: usize) -> Option<&Vec<u32>> {
        self.cpus.as_ref().filter(|cpus| cpus.len() == count)
    }

    /// Returns the kernel's numbers of the vCPUs, or those of their order.
    fn numbers(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        let known = self.known_numbers(count);
        (0..).zip(0..count).map(move |(assumed, index)| {
            known
                .and_then(|cpus| cpus.get(index))
                .copied()
                .unwrap_or(assumed)
        })
    }

    fn vcpus(&self, vcpus: &[uapi::Vcpu]) -> Vec<manifest::Vcpu> {
        let known = self.known_numbers(vcpus.len()).is_some();
        let numbers = self.numbers(vcpus.len());
        let vcpus = numbers.zip(vcpus).map(|(cpu, vcpu)| manifest::Vcpu {
            id: u64::from(vcpu.id.unsigned_abs()),
            cpu,
            cpu_assumed: !known,
            state: match vcpu.state {
                uapi::VCPU_PARKED => VcpuState::Parked,
                uapi::VCPU_RUNNING => VcpuState::Running,
                _ => VcpuState::Outside,
            },
            registers: has_registers(vcpu),
        });
        vcpus.collect()
    }

    /// Returns what a file of this form should have, and lacks, besides pages.
    fn lacks(moment: &Moment, has_changed: bool, options: &Options) -> Vec<String> {
        let mut lacks = Vec::new();
        let vcpus = moment.vcpus.iter();
        let without = vcpus.filter(|vcpu| !has_registers(vcpu)).count();
        if without > 0 && options.is_elf() {
            lacks.push(format!("The registers of {without} vCPUs are not known."));
        }
        let has_mappings = moment.are_all_mappings && !moment.mappings.is_empty();
        if options.format == Format::ElfGdb && !has_mappings {
            lacks.push(
                "Not all is known that the guest's kernel has mapped: gdb will see a part of it."
                    .to_owned(),
            );
        }
        if has_changed {
            lacks.push(
                "The VMM has changed the guest's memory meanwhile: some of it may be missing."
                    .to_owned(),
            );
        }
        lacks
    }

    fn warnings(&self, moment: &Moment, options: &Options) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_elf = options.is_elf();
        if self.vmcoreinfo.is_none() && is_elf {
            warnings.push(
                "No VMCOREINFO was found in the guest: drgn and makedumpfile need it, or symbols."
                    .to_owned(),
            );
        }
        if self.vmcoreinfo.is_some() && self.proofs.is_empty() {
            warnings.push("Nothing proves the guest's VMCOREINFO.".to_owned());
        }
        if self.is_ambiguous {
            warnings.push("Another VMCOREINFO is as good as the one that was taken.".to_owned());
        }
        if self.known_numbers(moment.vcpus.len()).is_none() && is_elf {
            warnings.push(
                "The guest's numbers of its CPUs are not known: those of the vCPUs were taken."
                    .to_owned(),
            );
        }
        if options.mode == Mode::Live {
            warnings
                .push("The guest ran meanwhile: its pages are of different moments.".to_owned());
        }
        warnings
    }
}

/// Returns whether these are the numbers from 0 on, each once: a file can have no others.
fn are_all(numbers: &[u32]) -> bool {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    (0..)
        .zip(sorted)
        .all(|(expected, number): (u32, u32)| expected == number)
}

fn has_registers(vcpu: &uapi::Vcpu) -> bool {
    vcpu.lacks == 0
}

fn bytes(pages: usize) -> u64 {
    u64::try_from(pages)
        .unwrap_or(u64::MAX)
        .saturating_mul(crate::core::PAGE_SIZE)
}

/// Why there is no dump.
#[derive(Debug)]
pub enum DumpError {
    /// The pause would be longer than it may be.
    TooLong {
        /// How long it would be.
        expected: Duration,
    },
    /// More would have to be copied in the pause than there is memory for.
    TooMuch {
        /// How many bytes.
        needed: u64,
    },
    /// The pause was longer than it may be, and was ended.
    Expired,
    /// The VMM has given the guest other memory meanwhile.
    Changed,
    /// There is not enough memory for what is to be known of each page.
    Memory,
    /// The memslots make no sense.
    Ranges(RangeError),
    /// The file cannot have this form.
    Elf(ElfError),
    /// The file cannot be written.
    Write(WriteError),
    /// The module has refused something.
    Device(device::Error),
}

impl Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { expected } => write!(
                f,
                "the guest would stand for about {} ms; raise --max-pause, or take \
                 --consistency live",
                expected.as_millis().max(1)
            ),
            Self::TooMuch { needed } => write!(
                f,
                "the guest changes so much that {} MiB would have to be copied in the pause; \
                 raise --memory, or take --consistency live",
                needed.div_ceil(1 << 20)
            ),
            Self::Expired => f.write_str(
                "the pause was longer than expected, and ended; raise --max-pause, or take \
                 --consistency live",
            ),
            Self::Changed => f.write_str(
                "the VMM has changed the guest's memory meanwhile (memslots); dump it again",
            ),
            Self::Memory => f.write_str("there is not enough memory; free some, and try again"),
            Self::Ranges(error) => write!(f, "the memslots make no sense: {error}"),
            Self::Elf(error) => error.fmt(f),
            Self::Write(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl Error for DumpError {}

impl From<device::Error> for DumpError {
    fn from(error: device::Error) -> Self {
        if error.errno() == Errno::TIME {
            return Self::Expired;
        }
        Self::Device(error)
    }
}

impl From<RangeError> for DumpError {
    fn from(error: RangeError) -> Self {
        Self::Ranges(error)
    }
}

impl From<ElfError> for DumpError {
    fn from(error: ElfError) -> Self {
        Self::Elf(error)
    }
}

impl From<ManifestError> for DumpError {
    fn from(_: ManifestError) -> Self {
        Self::Memory
    }
}

impl From<WriteError> for DumpError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl From<OutputError> for DumpError {
    fn from(error: OutputError) -> Self {
        Self::Write(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_another_moment_are_missing_unless_the_dump_is_live() {
        assert!(is_missing(PageKind::Late, Mode::Instant));
        assert!(!is_missing(PageKind::Late, Mode::Live));
        for mode in [Mode::Instant, Mode::Live] {
            assert!(is_missing(PageKind::Swapped, mode));
            assert!(!is_missing(PageKind::Present, mode));
            assert!(!is_missing(PageKind::Untouched, mode));
        }
    }

    #[test]
    fn only_a_form_with_registers_lacks_them() {
        let vcpu = uapi::Vcpu {
            lacks: uapi::NO_REGISTERS,
            ..zerocopy::FromZeros::new_zeroed()
        };
        let moment = Moment {
            vcpus: vec![vcpu],
            time: None,
            mappings: Vec::new(),
            are_all_mappings: true,
        };
        let lacks = |format| {
            let options = Options {
                format,
                mode: Mode::Instant,
                max_pause_ms: 1,
                memory: 0,
                freeze_timeout_ms: 0,
                is_digested: false,
            };
            Facts::lacks(&moment, false, &options).len()
        };
        let formats = [Format::Raw, Format::Lime, Format::Elf, Format::ElfGdb];
        assert_eq!(formats.map(lacks), [0, 0, 1, 2]);
    }

    #[test]
    fn a_guest_cannot_give_its_cpus_numbers_that_no_file_has() {
        assert!(are_all(&[2, 0, 1]));
        assert!(are_all(&[]));
        for numbers in [vec![0, 0xfffe, 1], vec![1, 2], vec![0, 0]] {
            assert!(!are_all(&numbers), "{numbers:?}");
        }
    }
}
