// SPDX-License-Identifier: GPL-2.0

//! What goes wrong with output.

use std::{
    error::Error,
    fmt::{self, Display},
    io,
    path::PathBuf,
};

use rustix::io::Errno;

/// Why something was not written. Formatted, it says what is wrong and what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum OutputError {
    /// There is a file of that name, which shall not be replaced.
    Exists(PathBuf),
    /// What has that name is no regular file.
    NotRegular(PathBuf),
    /// It is no name of a file.
    NoName(PathBuf),
    /// Standard output is a terminal.
    Terminal,
    /// A manifest has no place beside standard output.
    NoPlace,
    /// What a pipe needed has been given too late.
    OutOfOrder,
    /// Who read the pipe has ended.
    BrokenPipe,
    /// The disk is full, or what the user may have of it. `None` is standard output.
    Full(Option<PathBuf>),
    /// A file in the folder for temporary files cannot be made, written or read.
    Spool(PathBuf, io::Error),
    /// The file is bigger than the file system or the limits of the process allow.
    TooBig(Option<PathBuf>),
    /// Anything else.
    Other {
        /// What could not be done: `write`, `create`, …
        action: &'static str,
        /// With which file. `None` is standard output.
        path: Option<PathBuf>,
        /// Why not.
        source: io::Error,
    },
}

impl OutputError {
    /// Returns the error of an action with standard output.
    pub(super) fn stream(source: io::Error) -> Self {
        Self::new("write", None, source)
    }

    /// Returns the error of a file without a name.
    pub(super) fn spool(source: io::Error) -> Self {
        Self::Spool(super::spool_folder(), source)
    }

    /// Returns the error of an action with a file.
    pub(super) fn new(action: &'static str, path: Option<PathBuf>, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::PIPE) => Self::BrokenPipe,
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full(path),
            Some(Errno::FBIG) => Self::TooBig(path),
            _ => Self::Other {
                action,
                path,
                source,
            },
        }
    }
}

/// Formats the name of an output.
struct Name<'a>(&'a Option<PathBuf>);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => path.display().fmt(f),
            None => write!(f, "standard output"),
        }
    }
}

impl Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(path) => {
                let path = path.display();
                write!(
                    f,
                    "{path} is there already; give another name, or have it replaced (--force)"
                )
            }
            Self::NotRegular(path) => {
                let path = path.display();
                write!(
                    f,
                    "{path} is no regular file; give another name, or - and redirect it"
                )
            }
            Self::NoName(path) => {
                write!(f, "{} is no name of a file; give one", path.display())
            }
            Self::Terminal => write!(f, "standard output is a terminal; redirect it"),
            Self::NoPlace => {
                write!(
                    f,
                    "standard output has no place for a manifest; write to a file"
                )
            }
            Self::OutOfOrder => {
                write!(
                    f,
                    "standard output cannot be written a second time; write to a file"
                )
            }
            Self::BrokenPipe => {
                write!(f, "who read standard output has ended; see why")
            }
            Self::Full(path) => {
                let name = Name(path);
                write!(
                    f,
                    "no space is left for {name}; make room, or write it elsewhere"
                )
            }
            Self::Spool(folder, source) => write!(
                f,
                "{}, for what is to go to standard output: {source}; set TMPDIR to another folder, \
                 or write to a file",
                folder.display()
            ),
            Self::TooBig(path) => write!(
                f,
                "{} is bigger than a file may be; see ulimit -f, write it elsewhere, or in another \
                 format",
                Name(path)
            ),
            Self::Other {
                action,
                path,
                source,
            } => {
                let name = Name(path);
                write!(f, "cannot {action} {name}: {source}; give another name")
            }
        }
    }
}

impl Error for OutputError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Other { source, .. } | Self::Spool(_, source) => Some(source),
            _ => None,
        }
    }
}
