// SPDX-License-Identifier: GPL-2.0

//! The VMs of this host, as `/proc` tells them. The module is not needed.
//!
//! A VM is a file descriptor of its VMM (`anon_inode:kvm-vm`), and so is each vCPU
//! (`anon_inode:kvm-vcpu:N`): `kvm_dev_ioctl_create_vm` and `create_vcpu_fd` in
//! `virt/kvm/kvm_main.c`. Processes may end, and others begin, while `/proc` is read.

mod name;
mod selection;

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{openat, readlinkat, Dir, Mode, OFlags, CWD},
    io::Errno,
};

pub use self::selection::{Selection, SelectionError};

/// The most bytes of a process's arguments that are read.
const MAX_ARGUMENTS: u64 = 1 << 20;

/// The size of the pages that `/proc/PID/statm` counts, on x86-64.
const PAGE_BYTES: u64 = 4096;

/// A host, by the folder where its processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    proc: PathBuf,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// The process number of its VMM.
    pub pid: i32,
    /// Its file descriptor in the VMM; [`None`] if the VMM has closed it, and keeps its vCPUs.
    pub fd: Option<i32>,
    /// The VMM's program, such as `qemu-system-x86_64`.
    pub program: OsString,
    /// Its name, as the VMM's arguments have it.
    pub name: Option<OsString>,
    /// How many vCPUs it has; [`None`] if its VMM has several VMs: no vCPU tells whose it is.
    pub vcpus: Option<usize>,
    /// How much memory the VMM has in use now, in bytes: that of all its VMs, and its own.
    pub rss_bytes: Option<u64>,
    /// When the VMM began, in ticks since boot. With its number, that is a process's identity.
    pub began: Option<u64>,
}

/// The VMs of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vms {
    /// By process number and descriptor.
    pub vms: Vec<Vm>,
    /// How many processes could not be looked at: they are somebody else's.
    pub hidden: usize,
}

impl Vm {
    /// Returns its name, or else the VMM's program.
    #[must_use]
    pub fn title(&self) -> &OsStr {
        self.name.as_deref().unwrap_or(&self.program)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl Host {
    /// Creates a host from the folder where its processes are; the default is `/proc`.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into() }
    }

    /// Returns all VMs that this process may see.
    ///
    /// # Errors
    ///
    /// The folder of processes cannot be read.
    pub fn vms(&self) -> io::Result<Vms> {
        let mut all = Vms::default();
        for entry in fs::read_dir(&self.proc)? {
            let Ok(entry) = entry else {
                continue;
            };
            let Some(pid) = number(&entry.file_name()) else {
                continue;
            };
            match self.vms_of(pid) {
                Ok(mut vms) => all.vms.append(&mut vms),
                Err(Errno::ACCESS | Errno::PERM) => all.hidden = all.hidden.saturating_add(1),
                // It has ended meanwhile, or is about to.
                Err(_) => {}
            }
        }
        all.vms.sort_by_key(|vm| (vm.pid, vm.fd));
        Ok(all)
    }

    /// Returns the VMs of a process.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ESRCH`: it has ended. `EACCES`: this process may not look at it.
    pub fn vms_of(&self, pid: i32) -> Result<Vec<Vm>, Errno> {
        let folder = self.proc.join(pid.to_string());
        let files = Files::of(&folder)?;
        if files.vms.is_empty() && files.vcpus.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = arguments(&folder);
        let program = program(&folder, &arguments);
        let vm = Vm {
            pid,
            fd: None,
            name: name::of(&program, &arguments),
            program,
            vcpus: (files.vms.len() <= 1).then_some(files.vcpus.len()),
            rss_bytes: rss_bytes(&folder),
            began: began(&folder),
        };
        if files.vms.is_empty() {
            return Ok(vec![vm]);
        }
        let vms = files.vms.iter().map(|fd| Vm {
            fd: Some(*fd),
            ..vm.clone()
        });
        Ok(vms.collect())
    }

    /// Returns whether a VM's process is still the one that it was, and not another with its
    /// number. To be asked after the process was opened ([`crate::device::open_process`]).
    #[must_use]
    pub fn is_same(&self, vm: &Vm) -> bool {
        began(&self.proc.join(vm.pid.to_string())) == vm.began
    }

    /// Returns the number of a process from that of one of its threads.
    fn process_of(&self, thread: i32) -> Option<i32> {
        let status = fs::read_to_string(self.proc.join(thread.to_string()).join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        line.trim().parse().ok()
    }
}

/// What a process has open.
#[derive(Default)]
struct Files {
    /// The descriptors of VMs.
    vms: BTreeSet<i32>,
    /// The numbers of vCPUs, as KVM names them.
    vcpus: BTreeSet<Vec<u8>>,
}

impl Files {
    /// Looks at the descriptors of a process, of which there may be very many.
    fn of(folder: &Path) -> Result<Self, Errno> {
        let mut files = Self::default();
        let result = files.read(&folder.join("fd"));
        if files.vms.is_empty() && files.vcpus.is_empty() {
            // The first thread may have ended: then it has no descriptors, but others have them.
            let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
            let is_dead = status.lines().any(|line| {
                let state = line.strip_prefix("State:");
                state.is_some_and(|state| state.trim_start().starts_with('Z'))
            });
            if is_dead {
                return Self::of_threads(folder);
            }
        }
        result.map(|()| files)
    }

    fn of_threads(folder: &Path) -> Result<Self, Errno> {
        let threads = fs::read_dir(folder.join("task"));
        let threads = threads.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let mut files = Self::default();
        for thread in threads.flatten() {
            if files.read(&thread.path().join("fd")).is_ok() && !files.vms.is_empty() {
                break;
            }
        }
        Ok(files)
    }

    fn read(&mut self, folder: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, folder, flags, Mode::empty())?;
        // One buffer for all links.
        let mut target = Vec::with_capacity(256);
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(fd) = number(OsStr::from_bytes(name.to_bytes())) else {
                continue;
            };
            let Ok(link) = readlinkat(&directory, name, target) else {
                // It was closed meanwhile.
                target = Vec::new();
                continue;
            };
            if let Some(kind) = link.to_bytes().strip_prefix(b"anon_inode:kvm-") {
                if kind == b"vm" {
                    self.vms.insert(fd);
                } else if let Some(number) = kind.strip_prefix(b"vcpu:") {
                    self.vcpus.insert(number.to_vec());
                }
            }
            target = link.into_bytes();
        }
        Ok(())
    }
}

/// Returns the number that a name in `/proc` is.
fn number(name: &OsStr) -> Option<i32> {
    let text = name.to_str()?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Returns the arguments of a process, the program first.
fn arguments(folder: &Path) -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    if let Ok(file) = File::open(folder.join("cmdline")) {
        // What was read before an error will do.
        let _ = file.take(MAX_ARGUMENTS).read_to_end(&mut text);
    }
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// Returns the name of a process's program: that of its file, or else what it calls itself.
fn program(folder: &Path, arguments: &[Vec<u8>]) -> OsString {
    if let Some(name) = fs::read_link(folder.join("exe"))
        .ok()
        .as_deref()
        .and_then(Path::file_name)
    {
        let name = name.as_bytes();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        return OsString::from_vec(name.to_vec());
    }
    let first = arguments
        .first()
        .map(|first| Path::new(OsStr::from_bytes(first)));
    if let Some(name) = first.and_then(Path::file_name) {
        return name.to_owned();
    }
    let name = fs::read(folder.join("comm")).unwrap_or_default();
    OsString::from_vec(name.strip_suffix(b"\n").unwrap_or(&name).to_vec())
}

/// Returns how much memory a process has in use.
fn rss_bytes(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(PAGE_BYTES)
}

/// Returns when a process began (field 22 of `/proc/PID/stat`, `proc_pid_stat(5)`).
fn began(folder: &Path) -> Option<u64> {
    let text = fs::read(folder.join("stat")).ok()?;
    // The second field is the name, in parentheses, and may have any bytes.
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(text.get(end.checked_add(1)?..)?).into_owned();
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A folder like `/proc`.
    pub(crate) struct FakeProc(TempDir);

    impl FakeProc {
        pub(crate) fn new() -> Self {
            let this = Self(TempDir::new().expect("a folder"));
            fs::write(this.0.path().join("uptime"), "1 1").expect("written");
            this
        }

        pub(crate) fn host(&self) -> Host {
            Host::new(self.0.path())
        }

        pub(crate) fn path(&self) -> &Path {
            self.0.path()
        }

        /// Adds a process with descriptors that are links to `files`, from 0 on.
        pub(crate) fn add(&self, pid: i32, arguments: &[&[u8]], files: &[&str]) -> PathBuf {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(folder.join("fd")).expect("created");
            for (fd, target) in files.iter().enumerate() {
                symlink(target, folder.join("fd").join(fd.to_string())).expect("linked");
            }
            let mut cmdline = arguments.join(&0);
            cmdline.push(0);
            fs::write(folder.join("cmdline"), cmdline).expect("written");
            fs::write(folder.join("comm"), "comm\n").expect("written");
            fs::write(folder.join("statm"), "300 200 100 1 0 1 0\n").expect("written");
            fs::write(folder.join("status"), format!("Name:\tx\nTgid:\t{pid}\n")).expect("written");
            let stat = format!("{pid} (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 0");
            fs::write(folder.join("stat"), stat).expect("written");
            folder
        }
    }

    const QEMU: &[&[u8]] = &[
        b"/usr/bin/qemu-system-x86_64",
        b"-name",
        b"guest=web,debug-threads=on",
    ];
    const VM: &str = "anon_inode:kvm-vm";

    #[test]
    fn a_vm_is_a_descriptor_of_its_vmm() {
        let proc = FakeProc::new();
        proc.add(
            700,
            &[b"sh"],
            &["/dev/null", "pipe:[1]", "anon_inode:kvm-vm-stats"],
        );
        let vcpus = [
            "anon_inode:kvm-vcpu:0",
            "anon_inode:kvm-vcpu:1",
            "anon_inode:kvm-vcpu:1",
        ];
        proc.add(812, QEMU, &["/dev/kvm", VM, vcpus[0], vcpus[1], vcpus[2]]);
        let all = proc.host().vms().expect("read");
        assert_eq!(all.hidden, 0);
        let expected = Vm {
            pid: 812,
            fd: Some(1),
            program: "qemu-system-x86_64".into(),
            name: Some("web".into()),
            vcpus: Some(2),
            rss_bytes: Some(200 * 4096),
            began: Some(777),
        };
        assert_eq!(all.vms, [expected.clone()]);
        assert!(proc.host().is_same(&expected));
        assert!(!proc.host().is_same(&Vm {
            began: Some(1),
            ..expected
        }));
    }

    #[test]
    fn a_vmm_may_have_several() {
        let proc = FakeProc::new();
        proc.add(9, &[b"./vmm"], &[VM, "anon_inode:kvm-vcpu:0", VM]);
        proc.add(10, &[b"/opt/vmm"], &["anon_inode:kvm-vcpu:0"]);
        let vms = proc.host().vms().expect("read").vms;
        let fds: Vec<_> = vms.iter().map(|vm| (vm.pid, vm.fd, vm.vcpus)).collect();
        assert_eq!(
            fds,
            [(9, Some(0), None), (9, Some(2), None), (10, None, Some(1))]
        );
        assert_eq!(vms[2].title(), "vmm");
    }

    #[test]
    fn what_a_process_lacks_is_not_known() {
        let proc = FakeProc::new();
        let folder = proc.add(5, &[b"vmm"], &[VM]);
        for file in ["cmdline", "statm", "stat", "status"] {
            fs::remove_file(folder.join(file)).expect("removed");
        }
        // Such as one that has just ended.
        fs::create_dir(proc.path().join("6")).expect("created");
        let vms = proc.host().vms().expect("read").vms;
        assert_eq!(vms.len(), 1);
        assert_eq!(vms[0].title(), "comm");
        assert_eq!((vms[0].rss_bytes, vms[0].began), (None, None));
    }

    #[test]
    fn the_program_is_that_of_its_file() {
        let proc = FakeProc::new();
        let folder = proc.add(5, &[b"vmm: busy"], &[VM]);
        symlink("/opt/cloud-hypervisor (deleted)", folder.join("exe")).expect("linked");
        assert_eq!(
            proc.host().vms_of(5).expect("read")[0].program,
            "cloud-hypervisor"
        );
    }

    #[test]
    fn the_first_thread_may_have_ended() {
        let proc = FakeProc::new();
        let folder = proc.add(5, &[b"vmm"], &[]);
        fs::write(folder.join("status"), "Name:\tx\nState:\tZ (zombie)\n").expect("written");
        let thread = folder.join("task/6/fd");
        fs::create_dir_all(&thread).expect("created");
        symlink(VM, thread.join("7")).expect("linked");
        assert_eq!(proc.host().vms_of(5).expect("read")[0].fd, Some(7));
    }

    #[test]
    fn a_host_without_processes_is_an_error() {
        assert!(Host::new("/nonexistent").vms().is_err());
        assert_eq!(Host::new("/nonexistent").vms_of(1), Err(Errno::NOENT));
    }
}
