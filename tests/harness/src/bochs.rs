// SPDX-License-Identifier: GPL-2.0

//! VMs in Bochs, which emulates Intel's virtualization extension.
//!
//! The VM has a processor that Debian's kernel and KVM support, and boots from a CD: Bochs has
//! firmware, but loads no kernel.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::run::{listen, read_console, split_console, Limits, Run};

/// The time limit from the start to the first case: some ten times the usual time.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// The time limit from the end of a case until the VM is off or begins the next one.
const END_LIMIT: Duration = Duration::from_secs(120);

/// How many instructions make a second in the VM. It runs about as many in a second, so time passes
/// there as it does here.
const SPEED: u32 = 100_000_000;

/// A VM.
pub(crate) struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// More parameters for the kernel.
    pub parameters: String,
    /// Its memory in MiB.
    pub memory: u32,
}

impl Machine {
    /// Runs the VM until it is off or time is up. Each case has its time limit in `limits`. Returns
    /// the cases that began, or one that did not.
    ///
    /// The folder `log` gets the kernel log, the messages, and Bochs's configuration and output.
    ///
    /// # Errors
    ///
    /// The CD cannot be made, Bochs cannot be started, or a log cannot be written.
    pub(crate) fn run_all(&self, log: &Path, limits: &[Duration]) -> io::Result<Vec<Run>> {
        fs::create_dir_all(log)?;
        let cd = log.join("boot.iso");
        self.make_cd(&cd, log)?;
        fs::write(log.join("bochsrc"), self.configuration())?;
        // This display needs no terminal. Standard output is the VM's second port.
        let child = Command::new("sh")
            .args(["-c", "exec bochs -q -f bochsrc 3>&1 >bochs.out 2>&1"])
            .env("TERM", "vt100")
            .current_dir(log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let limits = Limits {
            boot: BOOT_LIMIT,
            cases: limits,
            end: END_LIMIT,
        };
        let messages = &mut File::create(log.join("messages.log"))?;
        let mut runs = listen(child, &limits, messages, &mut |_| (), &|| ())?;
        fs::remove_file(cd)?;
        split_console(&read_console(&log.join("console.log"))?, &mut runs);
        Ok(runs)
    }

    /// Makes the CD: GRUB, the kernel, the initramfs.
    fn make_cd(&self, cd: &Path, log: &Path) -> io::Result<()> {
        // As in QEMU. A reboot is a triple fault, at which Bochs ends. The kernel cannot measure
        // the processor's speed.
        let menu = log.join("grub.cfg");
        let parameters = format!(
            "console=ttyS0,115200 oops=panic panic=-1 \
             reboot=t tsc_early_khz={} nokaslr rdinit=/init {}",
            SPEED / 1000,
            self.parameters
        );
        fs::write(
            &menu,
            format!("linux /vmlinuz {parameters}\ninitrd /initramfs\nboot\n"),
        )?;
        let output = Command::new("grub-mkrescue")
            .arg("-o")
            .arg(cd)
            .arg(format!("boot/grub/grub.cfg={}", menu.display()))
            .arg(format!("vmlinuz={}", self.kernel.display()))
            .arg(format!("initramfs={}", self.initramfs.display()))
            .output()
            .map_err(|error| io::Error::other(format!("grub-mkrescue: {error}")))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ))
        }
    }

    /// Returns Bochs's configuration, with paths relative to the folder of the logs.
    fn configuration(&self) -> String {
        let memory = self.memory;
        // Do not synchronize with real time. Do not log unknown registers, which are many.
        format!(
            "cpu: model=corei7_icelake_u, count=1, ips={SPEED}, reset_on_triple_fault=0, \
             ignore_bad_msrs=1\n\
             clock: sync=none\n\
             memory: guest={memory}, host={memory}\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             pci: enabled=1, chipset=i440fx\n\
             boot: cdrom\n\
             ata0-master: type=cdrom, path=boot.iso, status=inserted\n\
             com1: enabled=1, mode=file, dev=console.log\n\
             com2: enabled=1, mode=file, dev=/dev/fd/3\n\
             display_library: term\n\
             log: bochs.log\n\
             error: action=ignore\n\
             panic: action=fatal\n"
        )
    }
}
