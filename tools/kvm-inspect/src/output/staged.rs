// SPDX-License-Identifier: GPL-2.0

//! A file that has no name until it is whole.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{linkat, open, AtFlags, Mode, OFlags, CWD},
    io::Errno,
};
use tempfile::NamedTempFile;

use super::{Existing, OutputError};

/// A file that has no name until [`Staged::publish`].
pub(super) struct Staged {
    path: PathBuf,
    /// The folder of `path`.
    folder: PathBuf,
    existing: Existing,
    hidden: Hidden,
}

enum Hidden {
    /// It ends with the last file descriptor.
    Unnamed(File),
    /// It has a temporary name, and ends when it is dropped.
    Named(NamedTempFile),
}

impl Staged {
    pub(super) fn create(path: &Path, existing: Existing) -> Result<Self, OutputError> {
        check(path, existing)?;
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let hidden = Hidden::create(&folder);
        let hidden =
            hidden.map_err(|error| OutputError::new("create", Some(path.to_owned()), error))?;
        Ok(Self {
            path: path.to_owned(),
            folder,
            existing,
            hidden,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn existing(&self) -> Existing {
        self.existing
    }

    pub(super) fn file(&self) -> &File {
        match &self.hidden {
            Hidden::Unnamed(file) => file,
            Hidden::Named(file) => file.as_file(),
        }
    }

    /// Returns the error of an action with the file.
    pub(super) fn error(&self, action: &'static str, source: io::Error) -> OutputError {
        OutputError::new(action, Some(self.path.clone()), source)
    }

    /// Waits until all is on the disk.
    pub(super) fn sync(&self) -> Result<(), OutputError> {
        let result = self.file().sync_all();
        result.map_err(|error| self.error("write", error))
    }

    /// Gives the file its name.
    pub(super) fn publish(self) -> Result<(), OutputError> {
        // What has come there since. A rename would replace a symbolic link or a device, too.
        check(&self.path, self.existing)?;
        let Self {
            path,
            folder,
            existing,
            hidden,
        } = self;
        let result = hidden.publish(&path, &folder, existing);
        // The name is on the disk, too, only if the folder is.
        let result = result.and_then(|()| {
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.inspect_err(|_| {
                // What was there before cannot be had back.
                if existing == Existing::Refuse {
                    let _ = fs::remove_file(&path);
                }
            })
        });
        result.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OutputError::Exists(path),
            _ => OutputError::new("name", Some(path), error),
        })
    }
}

impl Hidden {
    fn create(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match open(folder, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                let file = File::from(file);
                // Without /proc, it would never get a name.
                if Path::new(&descriptor(&file)).exists() {
                    Ok(Self::Unnamed(file))
                } else {
                    Self::create_named(folder)
                }
            }
            // What file systems and kernels without O_TMPFILE say (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                Self::create_named(folder)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates it with a temporary name, which only its owner may open, as the crate has it.
    fn create_named(folder: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).tempfile_in(folder).map(Self::Named)
    }

    fn publish(self, path: &Path, folder: &Path, existing: Existing) -> io::Result<()> {
        match (self, existing) {
            (Self::Unnamed(file), Existing::Refuse) => link(&file, path),
            (Self::Unnamed(file), Existing::Replace) => {
                // A link does not replace anything, a rename needs a name.
                let mut builder = tempfile::Builder::new();
                let linked = builder
                    .prefix(PREFIX)
                    .make_in(folder, |path| link(&file, path))?;
                linked.persist(path).map_err(|error| error.error)
            }
            (Self::Named(file), Existing::Refuse) => {
                let result = file.persist_noclobber(path);
                result.map(drop).map_err(|error| error.error)
            }
            (Self::Named(file), Existing::Replace) => {
                let result = file.persist(path);
                result.map(drop).map_err(|error| error.error)
            }
        }
    }
}

const PREFIX: &str = ".kvm-inspect-";

/// Gives an unnamed file a name that nothing has yet.
fn link(file: &File, path: &Path) -> io::Result<()> {
    // By its descriptor alone, only who has CAP_DAC_READ_SEARCH can link it (open(2)).
    let flags = AtFlags::SYMLINK_FOLLOW;
    Ok(linkat(CWD, descriptor(file), CWD, path, flags)?)
}

/// Returns a name by which this process can open the file again.
fn descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Returns whether a file can get this name, as far as it can be known before.
pub(super) fn check(path: &Path, existing: Existing) -> Result<(), OutputError> {
    // Not `Path::file_name`, which overlooks a slash or a dot at the end.
    let mut parts = path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/');
    if matches!(parts.next(), None | Some(b"" | b"." | b"..")) {
        return Err(OutputError::NoName(path.to_owned()));
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(OutputError::NotRegular(path.to_owned())),
        Ok(_) if existing == Existing::Refuse => Err(OutputError::Exists(path.to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OutputError::new("create", Some(path.to_owned()), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    fn staged(path: &Path, existing: Existing, hidden: Hidden) -> Staged {
        Staged {
            path: path.to_owned(),
            folder: path.parent().expect("a folder").to_owned(),
            existing,
            hidden,
        }
    }

    /// Both ways to hide a file behave alike.
    #[test]
    fn a_hidden_file_gets_its_name_at_the_end() {
        for hide in [Hidden::create, Hidden::create_named] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("core");
            let names = || fs::read_dir(folder.path()).expect("names").count();
            let write = |content: &[u8], existing| {
                let file = staged(&path, existing, hide(folder.path()).expect("a file"));
                file.file().write_all_at(content, 0).expect("written");
                assert!(!path.exists() || fs::read(&path).expect("the old one") != content);
                file
            };
            drop(write(b"dropped", Existing::Refuse));
            assert_eq!(names(), 0);
            write(b"first", Existing::Refuse)
                .publish()
                .expect("published");
            assert_eq!(fs::read(&path).expect("it is there"), b"first");
            let mode = fs::metadata(&path)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o600);
            write(b"second", Existing::Replace)
                .publish()
                .expect("replaced");
            assert_eq!(fs::read(&path).expect("it is there"), b"second");
            let refused = write(b"third", Existing::Refuse).publish();
            assert!(matches!(refused, Err(OutputError::Exists(_))));
            assert_eq!(names(), 1);
        }
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_replaced() {
        for hide in [Hidden::create, Hidden::create_named] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("core");
            let hidden = hide(folder.path()).expect("a file");
            fs::write(&path, "another").expect("written");
            let error = hidden.publish(&path, folder.path(), Existing::Refuse);
            let kind = error.expect_err("it is taken").kind();
            assert_eq!(kind, io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).expect("it is there"), b"another");
        }
    }
}
