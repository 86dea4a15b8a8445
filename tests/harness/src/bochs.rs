// SPDX-License-Identifier: GPL-2.0

//! VMs in Bochs, which emulates Intel's virtualization extension.
//!
//! One with a processor that Debian's kernel and KVM get along with, and a CD to boot from: Bochs
//! has firmware, but loads no kernel.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::run::{listen, read_console, split_console, Limits, Run};

/// How long a VM may take until its first process begins the first case: some ten times what it takes.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// How long it may take, after a case has ended, until it is off or begins the next one.
const END_LIMIT: Duration = Duration::from_secs(120);

/// How many instructions make a second in the VM. About as many as it runs in a second, so that time
/// in it passes as it does here.
const SPEED: u32 = 100_000_000;

/// A VM to be run.
pub(crate) struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What is added to the kernel's command line.
    pub parameters: String,
    /// Its memory in MiB.
    pub memory: u32,
}

impl Machine {
    /// Runs the VM until it is off or time is up: for each case, from its beginning on, that is one of
    /// `limits`. Gives those that began, or one that did not.
    ///
    /// The kernel log, the messages, what Bochs is told and what it says go into files in the folder
    /// `log`.
    ///
    /// # Errors
    ///
    /// The CD cannot be made, Bochs not be started, or a log not be written.
    pub(crate) fn run_all(&self, log: &Path, limits: &[Duration]) -> io::Result<Vec<Run>> {
        fs::create_dir_all(log)?;
        let cd = log.join("boot.iso");
        self.make_cd(&cd, log)?;
        fs::write(log.join("bochsrc"), self.configuration())?;
        // Its display needs neither a terminal nor anybody who looks at it. Its standard output is
        // the VM's second port.
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
        // As in QEMU. A reboot is a triple fault, at which Bochs ends. The
        // kernel cannot find out how fast the processor is.
        let menu = log.join("grub.cfg");
        let parameters = format!(
            "console=ttyS0,115200 log_buf_len=4M oops=panic panic=-1 \
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

    /// What Bochs is told, with paths from the folder of the logs.
    fn configuration(&self) -> String {
        let memory = self.memory;
        // Without waiting for the time outside. Of registers that it does not know, which are many,
        // nothing is written down.
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
