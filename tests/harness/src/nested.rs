// SPDX-License-Identifier: GPL-2.0

//! A host in an emulator that runs a Linux guest in QEMU. The crate `demo` is what runs there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cases::protocol::Message;
use demo::{
    command::PROGRAM,
    dump::{MODULES, OUT, TAG},
    values::text,
};

use crate::{
    fresh,
    initramfs::Initramfs,
    judge::{judge, Verdict},
    kernel::Kernel,
    paths,
    qemu::Machine,
    stamp::Stamp,
    testbed::Testbed,
};

/// How often to start a host that did not boot or was lost: emulated hardware virtualization is not
/// as reliable as the real one.
const ATTEMPTS: u32 = 3;

/// The guest's QEMU, the smallest one of Debian, and the firmware that it needs for `microvm`.
const QEMU: &str = "/usr/bin/qemu-system-x86_64-microvm";
const FIRMWARE: [&str; 2] = [
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];

/// The program that searches QEMU's files in the scenario `peers`.
const RIPGREP: &str = "/usr/bin/rg";

/// The program that digests QEMU's files in the scenario `dumps`.
const SHA256SUM: &str = "/usr/bin/sha256sum";

/// The kernel of the guest that other programs know, as scripts/consumers puts it there.
const KNOWN_KERNEL: &str = "/opt/consumers/kernel/vmlinuz";

/// The guest on a host, which has the command `kvm-inspect`.
#[derive(Clone, Copy)]
pub enum Guest<'a> {
    /// The demo's own, with the kernel of the host.
    Demo,
    /// The one of `tests/consumers`. The host puts files into this folder.
    Known(&'a Path),
    /// The demo's own. The host is Debian with the packages installed.
    Installed(&'a Installed),
}

/// A Debian system with the packages installed, as `scripts/test-packages` makes it.
pub struct Installed {
    /// Its root folder.
    pub root: PathBuf,
    /// The folder of its kernel, as for [`Kernel::open`].
    pub kernel: PathBuf,
    /// The port of this machine by which it is logged in to.
    pub port: u16,
}

/// A scenario on a host.
pub struct Scenario<'a> {
    /// Its name in the crate `demo`.
    pub name: &'a str,
    /// More parameters for the kernel.
    pub parameters: &'a str,
    /// The guest.
    pub guest: Guest<'a>,
    /// The folder of its logs, below that of all. The number of the attempt is added.
    pub log: &'a str,
    /// The host's memory in MiB.
    pub memory: u32,
    /// The time limit from the boot on, and from each line to the next one.
    pub limit: Duration,
}

impl Scenario<'_> {
    /// Boots a host, and another one if it was lost. Shows each line that it prints. Returns the
    /// last line, its results.
    ///
    /// # Errors
    ///
    /// It has failed. The error says why, and where the logs are.
    pub fn run(&self, mut show: impl FnMut(&str)) -> io::Result<String> {
        let testbed = Testbed::stock();
        fresh::check_programs()?;
        let kernel = if let Guest::Installed(host) = self.guest {
            Kernel::open(&host.kernel)?
        } else {
            fresh::check_module(&testbed)?;
            Kernel::open(&testbed.kernel)?
        };
        let contents = Contents::of(self.guest, &kernel)?;
        let initramfs = paths::build().join("vm").join(contents.archive);
        contents.pack(&testbed, &kernel, &initramfs)?;
        let machine = Machine {
            kernel: kernel.image(),
            initramfs,
            parameters: format!(
                "ignore_loglevel mitigations=off cryptomgr.notests=1 scenario={} {}",
                self.name, self.parameters
            ),
            memory: self.memory,
            // With two processors software SVM sometimes loses guests with two vCPUs.
            processors: 1,
            in_parallel: false,
            share: match self.guest {
                Guest::Demo => None,
                Guest::Known(folder) => Some((TAG, folder.to_owned())),
                Guest::Installed(host) => Some((TAG, host.root.clone())),
            },
            ssh_port: match self.guest {
                Guest::Installed(host) => Some(host.port),
                Guest::Demo | Guest::Known(_) => None,
            },
        };
        let mut why = String::new();
        for attempt in 1..=ATTEMPTS {
            let log = paths::log().join(format!("{}.{attempt}", self.log));
            let mut is_over = false;
            let run = machine.run_and_tell(&log, self.limit, |message| match message {
                Message::Pass | Message::Fail => is_over = true,
                Message::Text(line) if !is_over => show(line),
                _ => (),
            })?;
            let last = run.text.last().cloned().unwrap_or_default();
            match judge(&run) {
                Verdict::Passed(_) => return Ok(last),
                Verdict::Failed(reason) => {
                    if reason != run.text.join("\n") {
                        show(&reason);
                    }
                    let first = reason.lines().next().unwrap_or_default();
                    let why = if run.passed == Some(false) {
                        &last
                    } else {
                        first
                    };
                    let log = log.display();
                    return Err(io::Error::other(format!("{why} (logs: {log})")));
                }
                Verdict::Infrastructure(reason) => {
                    show(&format!(
                        "infrastructure: {reason} (attempt {attempt} of {ATTEMPTS})"
                    ));
                    why = format!("infrastructure: {reason}, {attempt} times");
                }
            }
        }
        Err(io::Error::other(why))
    }
}

/// Runs a scenario that compares the pauses of the demo's guest, and the whole time. Shows each
/// line that it prints. Returns how many times shorter the pause is, and how many times faster the
/// whole.
///
/// # Errors
///
/// As [`Scenario::run`].
pub fn compare_times(name: &str, log: &str) -> io::Result<(f64, f64)> {
    let scenario = Scenario {
        name,
        parameters: "",
        guest: Guest::Demo,
        log,
        // The guest's memory, and as much for the file.
        memory: 3072,
        limit: Duration::from_secs(3600),
    };
    let results = scenario.run(|line| println!("{line}"))?;
    let number = |key| text(&results, key).and_then(|text| text.parse().ok());
    let both = number("shorter").zip(number("faster"));
    both.ok_or_else(|| io::Error::other(format!("not understood: {results}")))
}

/// What a host is packed with, besides KVM and the module.
struct Contents {
    /// The name of the host's archive.
    archive: &'static str,
    /// The kernel of the guest, and its first process.
    guest: (PathBuf, PathBuf),
    /// Programs of this machine, at the same paths there.
    programs: Vec<&'static str>,
    /// Lists of kernel modules, and the files of those.
    modules: Vec<(&'static str, Vec<PathBuf>)>,
    /// Whether it gets the module and the command, too.
    is_ours: bool,
}

impl Contents {
    fn of(guest: Guest<'_>, kernel: &Kernel) -> io::Result<Self> {
        let program = |name| paths::cases().with_file_name(name);
        Ok(match guest {
            Guest::Demo => Self {
                archive: "demo.cpio",
                guest: (kernel.image(), program("demo-guest")),
                programs: vec![QEMU, RIPGREP, SHA256SUM],
                modules: Vec::new(),
                is_ours: true,
            },
            Guest::Known(_) => Self {
                archive: "known.cpio",
                guest: (KNOWN_KERNEL.into(), program("consumers-guest")),
                programs: vec![QEMU],
                modules: vec![(MODULES, kernel.modules(&["9pnet_virtio", "9p"])?)],
                is_ours: true,
            },
            Guest::Installed(_) => Self {
                archive: "installed.cpio",
                guest: (kernel.image(), program("demo-guest")),
                programs: vec![QEMU],
                modules: vec![(MODULES, kernel.modules(&["9pnet_virtio", "9p", "overlay"])?)],
                is_ours: false,
            },
        })
    }

    /// Packs the host and its guest, if their inputs have changed.
    fn pack(&self, testbed: &Testbed, kernel: &Kernel, path: &Path) -> io::Result<()> {
        let host = paths::cases().with_file_name("demo-host");
        let command = paths::cases().with_file_name("kvm-inspect");
        let (guest_kernel, guest) = &self.guest;
        let mut files: Vec<PathBuf> = FIRMWARE.iter().map(PathBuf::from).collect();
        for program in &self.programs {
            files.extend(libraries(program)?);
            files.push(program.into());
        }
        files.sort_unstable();
        files.dedup();
        let mut inputs = kernel.module("kvm-amd")?;
        inputs.extend([&host, guest, guest_kernel].map(Clone::clone));
        if self.is_ours {
            inputs.extend([&command, &testbed.module].map(Clone::clone));
        }
        inputs.extend(self.modules.iter().flat_map(|(_, files)| files.clone()));
        inputs.extend(files.clone());
        let stamp = Stamp::new(path, &inputs)?;
        if stamp.is_current() {
            return Ok(());
        }
        stamp.clear()?;

        let inner = path.with_extension("guest.cpio");
        let mut initramfs = Initramfs::new();
        for folder in ["/dev", "/proc"] {
            initramfs.folder(folder);
        }
        initramfs.program("/init", fs::read(guest)?);
        initramfs.write(&inner)?;

        let mut initramfs = Initramfs::new();
        for folder in ["/dev", "/proc", "/sys", "/tmp", "/guest", "/host", OUT] {
            initramfs.folder(folder);
        }
        initramfs.program("/init", fs::read(host)?);
        initramfs.kvm(kernel, "kvm-amd")?;
        for (list, files) in &self.modules {
            initramfs.modules(list, files)?;
        }
        if self.is_ours {
            initramfs.file("/modules/kvm_inspect.ko", fs::read(&testbed.module)?);
        }
        initramfs.file("/guest/vmlinuz", fs::read(guest_kernel)?);
        initramfs.file("/guest/initramfs", fs::read(&inner)?);
        for file in files {
            initramfs.program_with_folders(&file)?;
        }
        if self.is_ours {
            initramfs.program(PROGRAM, fs::read(command)?);
        }
        initramfs.write(path)?;
        stamp.set()
    }
}

/// Returns the shared libraries of a program, and its loader.
fn libraries(program: &str) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    let paths: Vec<PathBuf> = paths.map(PathBuf::from).collect();
    if paths.is_empty() {
        return Err(io::Error::other(format!("{program} is not there")));
    }
    Ok(paths)
}
