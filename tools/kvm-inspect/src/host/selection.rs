// SPDX-License-Identifier: GPL-2.0

//! Which VM is meant.

use std::{
    error::Error,
    ffi::OsString,
    fmt::{self, Display},
    io,
    str::FromStr,
};

use rustix::io::Errno;

use super::{Host, Vm, Vms};
use crate::escape::Escaped;

/// The most VMs that an error names.
const MAX_NAMED: usize = 8;

/// How somebody names a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Not at all: there is only one.
    Only,
    /// By the number of its VMM's process, or of a thread of it: `812`.
    Pid(i32),
    /// By that and its descriptor there: `812-9`.
    PidFd(i32, i32),
    /// By its name, or without one by its VMM's program.
    Name(OsString),
}

/// Why there is not just one VM of that kind.
#[derive(Debug)]
pub enum SelectionError {
    /// There is none.
    None {
        /// What was looked for.
        wanted: Selection,
        /// What there is.
        all: Vms,
    },
    /// There are several.
    Several {
        /// What was looked for.
        wanted: Selection,
        /// All of that kind.
        vms: Vec<Vm>,
    },
    /// This process may not look at that one.
    Hidden(i32),
    /// The processes cannot be read.
    NoProcesses(io::Error),
}

/// The text is no VM as [`Selection`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAVm;

impl FromStr for Selection {
    type Err = NotAVm;

    fn from_str(text: &str) -> Result<Self, NotAVm> {
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            let number: Option<i32> = if is_number { text.parse().ok() } else { None };
            number.ok_or(NotAVm)
        };
        let (pid, fd) = match text.split_once('-') {
            Some((pid, fd)) => (number(pid)?, Some(number(fd)?)),
            None => (number(text)?, None),
        };
        match fd {
            _ if pid == 0 => Err(NotAVm),
            Some(fd) => Ok(Self::PidFd(pid, fd)),
            None => Ok(Self::Pid(pid)),
        }
    }
}

impl Display for NotAVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a VM is the number of its VMM's process, such as 812, or 812-9 with its descriptor \
             there; see kvm-inspect list, or give its name with --name"
        )
    }
}

impl Error for NotAVm {}

impl Host {
    /// Returns the VM that is meant.
    ///
    /// # Errors
    ///
    /// There is none, there are several, or they cannot be seen.
    pub fn select(&self, wanted: &Selection) -> Result<Vm, SelectionError> {
        let mut vms = match wanted {
            Selection::Only | Selection::Name(_) => self.all()?.vms,
            Selection::Pid(pid) | Selection::PidFd(pid, _) => self.of(*pid)?,
        };
        vms.retain(|vm| match wanted {
            Selection::Only | Selection::Pid(_) => true,
            Selection::PidFd(_, fd) => vm.fd == Some(*fd),
            Selection::Name(name) => vm.title() == name,
        });
        let wanted = wanted.clone();
        match vms.pop() {
            Some(vm) if vms.is_empty() => Ok(vm),
            Some(vm) => {
                vms.push(vm);
                Err(SelectionError::Several { wanted, vms })
            }
            None => {
                let all = self.all()?;
                Err(SelectionError::None { wanted, all })
            }
        }
    }

    fn all(&self) -> Result<Vms, SelectionError> {
        self.vms().map_err(SelectionError::NoProcesses)
    }

    /// Returns the VMs of a process, which may be given by a thread.
    fn of(&self, pid: i32) -> Result<Vec<Vm>, SelectionError> {
        let pid = self.process_of(pid).unwrap_or(pid);
        match self.vms_of(pid) {
            Ok(vms) => Ok(vms),
            Err(Errno::ACCESS | Errno::PERM) => Err(SelectionError::Hidden(pid)),
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// Formats VMs as a list in a line.
struct List<'a>(&'a [Vm]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, vm) in self.0.iter().take(MAX_NAMED).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", vm.pid)?;
            if let Some(fd) = vm.fd {
                write!(f, "-{fd}")?;
            }
            write!(f, " ({})", Escaped::of_os(vm.title()))?;
        }
        let more = self.0.len().saturating_sub(MAX_NAMED);
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}

impl Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => write!(f, "VM"),
            Self::Pid(pid) => write!(f, "VM of process {pid}"),
            Self::PidFd(pid, fd) => write!(f, "VM of process {pid} with descriptor {fd}"),
            Self::Name(name) => write!(f, "VM named {}", Escaped::of_os(name)),
        }
    }
}

impl Display for SelectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None { wanted, all } if all.vms.is_empty() => {
                write!(f, "there is no {wanted}; start one")?;
                if all.hidden > 0 {
                    let count = all.hidden;
                    write!(
                        f,
                        ", or run kvm-inspect as root: {count} processes are hidden without \
                         CAP_SYS_PTRACE"
                    )?;
                }
                Ok(())
            }
            Self::None { wanted, all } => {
                write!(f, "there is no {wanted}; name one of {}", List(&all.vms))
            }
            Self::Several { wanted, vms } => {
                write!(
                    f,
                    "there is more than one {wanted}; name one of {}",
                    List(vms)
                )
            }
            Self::Hidden(pid) => write!(
                f,
                "process {pid} cannot be looked at without CAP_SYS_PTRACE; run kvm-inspect as root"
            ),
            Self::NoProcesses(error) => {
                write!(f, "the processes cannot be read: {error}; mount /proc")
            }
        }
    }
}

impl Error for SelectionError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::FakeProc;

    const VM: &str = "anon_inode:kvm-vm";

    fn select(proc: &FakeProc, wanted: &Selection) -> Result<(i32, Option<i32>), String> {
        let vm = proc.host().select(wanted);
        vm.map(|vm| (vm.pid, vm.fd))
            .map_err(|error| error.to_string())
    }

    fn two() -> FakeProc {
        let proc = FakeProc::new();
        proc.add(8, &[b"qemu", b"-name", b"web"], &[VM]);
        proc.add(9, &[b"vmm\x1b[2J"], &["/dev/null", VM, VM]);
        proc
    }

    #[test]
    fn numbers_are_a_vm() {
        assert_eq!("812".parse(), Ok(Selection::Pid(812)));
        assert_eq!("812-9".parse(), Ok(Selection::PidFd(812, 9)));
        for text in [
            "",
            "0",
            "-9",
            "812-",
            "+1",
            "1-2-3",
            "0x1",
            "99999999999",
            "web",
            "1 ",
        ] {
            assert_eq!(text.parse::<Selection>(), Err(NotAVm), "{text}");
        }
    }

    #[test]
    fn a_vm_is_found_by_each_of_its_names() {
        let proc = two();
        assert_eq!(select(&proc, &Selection::Pid(8)), Ok((8, Some(0))));
        assert_eq!(select(&proc, &Selection::PidFd(9, 2)), Ok((9, Some(2))));
        assert_eq!(
            select(&proc, &Selection::Name("web".into())),
            Ok((8, Some(0)))
        );
        // A thread's number.
        let thread = proc.path().join("100");
        std::fs::create_dir(&thread).expect("created");
        std::fs::write(thread.join("status"), "Tgid:\t8\n").expect("written");
        assert_eq!(select(&proc, &Selection::Pid(100)), Ok((8, Some(0))));
    }

    #[test]
    fn the_only_one_needs_no_name() {
        let proc = FakeProc::new();
        proc.add(8, &[b"qemu"], &[VM]);
        assert_eq!(select(&proc, &Selection::Only), Ok((8, Some(0))));
    }

    #[test]
    fn what_is_meant_must_be_one() {
        let proc = two();
        assert_eq!(
            select(&proc, &Selection::Only).unwrap_err(),
            "there is more than one VM; name one of 8-0 (web), 9-1 (vmm\\u{1b}[2J), \
             9-2 (vmm\\u{1b}[2J)"
        );
        assert_eq!(
            select(&proc, &Selection::Pid(9)).unwrap_err(),
            "there is more than one VM of process 9; name one of 9-1 (vmm\\u{1b}[2J), \
             9-2 (vmm\\u{1b}[2J)"
        );
        let error = select(&proc, &Selection::Name("db".into())).unwrap_err();
        assert!(
            error.starts_with("there is no VM named db; name one of 8-0 (web), "),
            "{error}"
        );
        let error = select(&proc, &Selection::Pid(7)).unwrap_err();
        assert!(
            error.starts_with("there is no VM of process 7; name one of "),
            "{error}"
        );
    }

    #[test]
    fn without_any_vm_the_error_says_so() {
        let proc = FakeProc::new();
        let error = select(&proc, &Selection::Only).unwrap_err();
        assert_eq!(error, "there is no VM; start one");
    }

    #[test]
    fn many_vms_are_counted() {
        let proc = FakeProc::new();
        for pid in 1..=12 {
            proc.add(pid, &[b"vmm"], &[VM]);
        }
        let error = select(&proc, &Selection::Only).unwrap_err();
        assert!(error.ends_with("8-0 (vmm) and 4 more"), "{error}");
    }
}
