// SPDX-License-Identifier: GPL-2.0

//! VMs in QEMU, which emulates AMD's virtualization extension.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    slice, thread,
    time::Duration,
};

use cases::protocol::Message;

use crate::{
    judge::processors_with_nmi,
    run::{listen, read_console, split_console, Limits, Run},
    tsc,
};

/// The time limit from the start to the first case: some ten times the usual time.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// The time limit from the end of a case until the VM is off or begins the next one.
const END_LIMIT: Duration = Duration::from_secs(120);

/// How long the processors of a VM that hangs may take to tell of an NMI.
const NMI_SECONDS: u32 = 60;

/// A VM.
pub struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// More parameters for the kernel.
    pub parameters: String,
    /// Its memory in MiB.
    pub memory: u32,
    /// The number of its processors.
    pub processors: u32,
    /// Whether they run at the same time, and not in turns. With two the emulator is not reliable
    /// then: in some thousand freezes it loses a guest, or the VM.
    pub in_parallel: bool,
    /// A folder that it may mount, and the tag for that.
    pub share: Option<(&'static str, PathBuf)>,
    /// A TCP port of this machine, by which others reach its SSH server.
    pub ssh_port: Option<u16>,
}

impl Machine {
    /// Runs the VM until it is off or time is up, which is `limit` for the case.
    ///
    /// The folder `log` gets the kernel log, the case's messages, QEMU's messages and command line.
    /// If time is up it also gets what the processors do.
    ///
    /// # Errors
    ///
    /// QEMU cannot be started, or a log cannot be written.
    pub fn run(&self, log: &Path, limit: Duration) -> io::Result<Run> {
        self.run_and_tell(log, limit, |_| ())
    }

    /// Runs the VM as [`Self::run`] does, and passes each message to `tell` at once.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_and_tell(
        &self,
        log: &Path,
        limit: Duration,
        mut tell: impl FnMut(&Message),
    ) -> io::Result<Run> {
        let mut runs = self.listen(log, slice::from_ref(&limit), &mut tell)?;
        // There is always one.
        Ok(runs.swap_remove(0))
    }

    /// Runs the VM for several cases, one after the other. Returns those that began, or one that
    /// did not.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_all(&self, log: &Path, limits: &[Duration]) -> io::Result<Vec<Run>> {
        self.listen(log, limits, &mut |_| ())
    }

    fn listen(
        &self,
        log: &Path,
        limits: &[Duration],
        tell: &mut dyn FnMut(&Message),
    ) -> io::Result<Vec<Run>> {
        fs::create_dir_all(log)?;
        let console = log.join("console.log");
        let arguments = self.arguments(log, &console);
        fs::write(log.join("command"), quoted(&arguments))?;
        let child = Command::new("qemu-system-x86_64")
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(log.join("qemu.log"))?)
            .spawn()
            .map_err(|error| io::Error::other(format!("qemu-system-x86_64: {error}")))?;
        let limits = Limits {
            boot: BOOT_LIMIT,
            cases: limits,
            end: END_LIMIT,
        };
        let messages = &mut File::create(log.join("messages.log"))?;
        let examine = || {
            let monitor = log.join("monitor");
            // This only helps to find out why it hangs.
            let said = ask_monitor(&monitor);
            let _ = fs::write(
                log.join("hang.log"),
                said.unwrap_or_else(|error| error.to_string()),
            );
            if self.in_parallel {
                // Without it the hang is not the emulator's.
                let _ = self.send_nmi(&monitor, &console);
            }
        };
        let mut runs = listen(child, &limits, messages, tell, &examine)?;
        split_console(&read_console(&console)?, &mut runs);
        Ok(runs)
    }

    /// Sends the processors of a VM that hangs an NMI each second, until all have told of it in the
    /// kernel log, but not for long.
    fn send_nmi(&self, monitor: &Path, console: &Path) -> io::Result<()> {
        let mut monitor = connect(monitor)?;
        for _ in 0..NMI_SECONDS {
            // A processor with interrupts off leaves it to the next one's message to print its own.
            monitor.write_all(b"nmi\n")?;
            thread::sleep(Duration::from_secs(1));
            if processors_with_nmi(&read_console(console)?).len() >= self.processors as usize {
                break;
            }
        }
        Ok(())
    }

    fn arguments(&self, log: &Path, console: &Path) -> Vec<OsString> {
        // After an Oops nothing else matters. Without a good clock the clocksource watchdog waits
        // for another processor for ever. If that waits for this one in `stop_machine`, the boot
        // hangs (`watchdog_wait_seq` in `kernel/time/clocksource.c`).
        let mut parameters = format!(
            "console=ttyS0,115200 tsc=nowatchdog oops=panic panic=-1 \
             rdinit=/init {}",
            self.parameters
        );
        // On a busy machine the kernel measures a wrong rate, and its clock may be several times
        // too fast.
        if let Some(khz) = tsc::khz() {
            parameters.push_str(&format!(" tsc_early_khz={khz}"));
        }
        if self.in_parallel {
            // On a busy machine the processor with the log's reader may stand while another one
            // writes report after report.
            parameters.push_str(" log_buf_len=4M");
            // As a rule only the first processor takes an NMI from outside.
            parameters.push_str(" apic_extnmi=all");
        }
        let mut port = OsString::from("file:");
        port.push(console);
        let mut monitor = OsString::from("unix:");
        monitor.push(log.join("monitor"));
        monitor.push(",server=on,wait=off");
        let accelerator = if self.in_parallel {
            "tcg,thread=multi"
        } else {
            "tcg,thread=single"
        };
        let mut arguments: Vec<OsString> =
            "-machine pc -cpu max -no-user-config -nodefaults -display none -no-reboot \
            -chardev stdio,id=messages,signal=off"
                .split_whitespace()
                .map(OsString::from)
                .collect();
        for (option, value) in [
            ("-accel", accelerator.into()),
            ("-smp", self.processors.to_string().into()),
            ("-m", self.memory.to_string().into()),
            ("-kernel", self.kernel.clone().into()),
            ("-initrd", self.initramfs.clone().into()),
            ("-append", parameters.into()),
            ("-serial", port),
            ("-serial", "chardev:messages".into()),
            ("-monitor", monitor),
        ] {
            arguments.extend([option.into(), value]);
        }
        if let Some((tag, folder)) = &self.share {
            let mut share = OsString::from("local,id=share,security_model=none,path=");
            share.push(folder);
            let device = format!("virtio-9p-pci,fsdev=share,mount_tag={tag}");
            arguments.extend(["-fsdev".into(), share, "-device".into(), device.into()]);
        }
        if let Some(port) = self.ssh_port {
            let network = format!("user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22");
            let device = "virtio-net-pci,netdev=network,romfile=";
            arguments.extend(["-netdev".into(), network.into()]);
            arguments.extend(["-device".into(), device.into()]);
        }
        arguments
    }
}

/// Asks QEMU twice for the processors' registers, a second apart.
fn ask_monitor(socket: &Path) -> io::Result<String> {
    let mut monitor = connect(socket)?;
    let mut said = Vec::new();
    for _ in 0..2 {
        monitor.write_all(b"info registers -a\n")?;
        // The answer ends when nothing more comes.
        let mut part = [0; 4096];
        while let Ok(len @ 1..) = monitor.read(&mut part) {
            said.extend_from_slice(&part[..len]);
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Connects to QEMU's monitor. Nothing that is read or written there takes longer than a second.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    const WAIT: Duration = Duration::from_secs(1);

    let monitor = UnixStream::connect(socket)?;
    monitor.set_read_timeout(Some(WAIT))?;
    monitor.set_write_timeout(Some(WAIT))?;
    Ok(monitor)
}

/// Returns the command line for a shell.
fn quoted(arguments: &[OsString]) -> String {
    let quote = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        if argument.contains(' ') {
            format!("'{argument}'")
        } else {
            argument.into_owned()
        }
    };
    let words: Vec<String> = arguments.iter().map(quote).collect();
    format!("qemu-system-x86_64 {}\n", words.join(" "))
}
