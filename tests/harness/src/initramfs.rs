// SPDX-License-Identifier: GPL-2.0

//! The file system that a VM boots with, in a cpio archive.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Cursor},
    path::{Path, PathBuf},
};

use cpio::{
    newc::{Builder, ModeFileType},
    write_cpio,
};

use crate::kernel::{module_name, read_module, Kernel};

/// The contents of an archive.
#[derive(Default)]
pub struct Initramfs {
    entries: Vec<(Builder, Cursor<Vec<u8>>)>,
}

impl Initramfs {
    /// Creates an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder, after those above it.
    pub fn folder(&mut self, path: &str) -> &mut Self {
        self.add(path, 0o755, ModeFileType::Directory, Vec::new())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, contents: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, 0o644, ModeFileType::Regular, contents.into())
    }

    /// Adds a program.
    pub fn program(&mut self, path: &str, contents: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, 0o755, ModeFileType::Regular, contents.into())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(path, 0o777, ModeFileType::Symlink, target.into())
    }

    /// Adds a file of this machine at its own path, as a program, with the folders above it.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn program_with_folders(&mut self, path: &Path) -> io::Result<&mut Self> {
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        // A folder may be there twice. The root is always there.
        folders.pop();
        for folder in folders.iter().rev() {
            self.folder(&folder.to_string_lossy());
        }
        Ok(self.program(&path.to_string_lossy(), fs::read(path)?))
    }

    /// Adds KVM's modules below `/modules`: `kvm-amd` or `kvm-intel`, and what it needs. The file
    /// `kvm` there lists them in the order of loading.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    pub fn kvm(&mut self, kernel: &Kernel, module: &str) -> io::Result<&mut Self> {
        self.folder("/modules");
        self.modules("/modules/kvm", &kernel.module(module)?)
    }

    /// Adds the files of kernel modules to the folder `/modules`, and a list of them.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    pub fn modules(&mut self, list: &str, files: &[PathBuf]) -> io::Result<&mut Self> {
        let mut order = String::new();
        for path in files {
            let name = format!("/modules/{}.ko", module_name(&path.to_string_lossy()));
            self.file(&name, read_module(path)?);
            order = order + &name + "\n";
        }
        Ok(self.file(list, order))
    }

    /// Writes the archive.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = BufWriter::new(File::create(path)?);
        let file = write_cpio(self.entries.into_iter(), file)?;
        file.into_inner()?.sync_all()
    }

    fn add(&mut self, path: &str, mode: u32, kind: ModeFileType, contents: Vec<u8>) -> &mut Self {
        let builder = Builder::new(path.trim_start_matches('/'))
            .mode(mode)
            .set_mode_file_type(kind);
        self.entries.push((builder, Cursor::new(contents)));
        self
    }
}
