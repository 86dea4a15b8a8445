// SPDX-License-Identifier: GPL-2.0

//! A kernel from a package: its image and its modules.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// A kernel.
pub struct Kernel {
    folder: PathBuf,
    /// For each module those that it needs, as in `modules.dep`: paths relative to `modules`.
    dependencies: HashMap<String, Vec<String>>,
}

impl Kernel {
    /// Opens the kernel in a folder with `vmlinuz` and `modules`.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("modules/modules.dep");
        let text = fs::read_to_string(&path)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let dependencies = lines.map(|(module, needed)| {
            let needed = needed.split_whitespace().map(str::to_owned);
            (module.to_owned(), needed.collect())
        });
        Ok(Self {
            folder: folder.to_owned(),
            dependencies: dependencies.collect(),
        })
    }

    /// Returns the path of the image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Returns the files of a module and of those that it needs, in the order of loading.
    ///
    /// # Errors
    ///
    /// There is no such module.
    pub fn module(&self, name: &str) -> io::Result<Vec<PathBuf>> {
        let mut modules = self.dependencies.iter();
        let (path, needed) = modules
            .find(|(path, _)| module_name(path) == name)
            .ok_or_else(|| io::Error::other(format!("the kernel has no module {name}")))?;
        // `modules.dep` lists last what is needed first.
        let order = needed.iter().rev().chain([path]);
        Ok(order
            .map(|path| self.folder.join("modules").join(path))
            .collect())
    }

    /// Returns the files of several modules and of those that they need, each once, in the order of
    /// loading.
    ///
    /// # Errors
    ///
    /// There is no such module.
    pub fn modules(&self, names: &[&str]) -> io::Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for name in names {
            for path in self.module(name)? {
                if !all.contains(&path) {
                    all.push(path);
                }
            }
        }
        Ok(all)
    }
}

/// Returns the name of the module in a file: the file's name up to its first dot.
#[must_use]
pub fn module_name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name)
}

/// Returns the decompressed contents of a module's file.
///
/// # Errors
///
/// The file cannot be read or decompressed.
pub fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path),
    };
    let output = Command::new(tool).arg("-dc").arg(path).output();
    let output = output.map_err(|error| io::Error::other(format!("{tool}: {error}")))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let kernel = Kernel {
            folder: "/k".into(),
            dependencies: HashMap::from([
                (
                    "kernel/kvm-amd.ko.xz".to_owned(),
                    vec![
                        "kernel/kvm.ko.xz".to_owned(),
                        "kernel/irqbypass.ko.xz".to_owned(),
                    ],
                ),
                (
                    "kernel/kvm.ko.xz".to_owned(),
                    vec!["kernel/irqbypass.ko.xz".to_owned()],
                ),
            ]),
        };
        let paths = kernel.module("kvm-amd").expect("it is there");
        let names: Vec<_> = paths.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            names,
            [
                "/k/modules/kernel/irqbypass.ko.xz",
                "/k/modules/kernel/kvm.ko.xz",
                "/k/modules/kernel/kvm-amd.ko.xz"
            ]
        );
        assert!(kernel.module("kvm-intel").is_err());
    }
}
