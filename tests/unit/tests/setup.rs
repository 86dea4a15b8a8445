// SPDX-License-Identifier: GPL-2.0

//! The scripts that choose a kernel, and make what its headers lack: the archive moves on, and
//! what a machine has need not fit together.
//!
//! Headers, sources and what apt knows are made up. The programs are those of the build root.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// A file of the metadata.
const MADE: &str = "out/rust/libkernel.rmeta";

/// A folder with headers (`headers`), sources (`src`, seen as `/usr/src`), and programs that come
/// first on the PATH (`bin`).
struct Machine {
    folder: PathBuf,
}

/// What a script said, and whether it succeeded.
struct Said {
    text: String,
    ok: bool,
}

impl Machine {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = std::env::temp_dir().join(format!("setup-{}-{number}", process::id()));
        for name in ["headers/include/generated", "src", "bin"] {
            fs::create_dir_all(folder.join(name)).expect("a new folder");
        }
        let this = Self { folder };
        this.program("dpkg-query", "exit 1");
        this.archive(&[]);
        this
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a new folder");
        fs::write(path, text).expect("a new file");
    }

    fn program(&self, name: &str, body: &str) {
        let path = format!("bin/{name}");
        self.write(&path, &format!("#!/bin/sh\n{body}\n"));
        let permissions = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.join(path), permissions).expect("a program");
    }

    /// Headers of a kernel with Rust, as Debian builds it.
    fn headers(&self, release: &str, revision: &str) {
        let rustc = Command::new("rustc").arg("--version").output();
        let rustc = String::from_utf8(rustc.expect("rustc is there").stdout).expect("text");
        self.write(
            "headers/.config",
            &format!(
                "CONFIG_RUST=y\nCONFIG_CC_VERSION_TEXT=\"gcc (Debian) 14\"\n\
                 CONFIG_RUSTC_VERSION_TEXT=\"{}\"\n",
                rustc.trim()
            ),
        );
        self.release(release, revision);
    }

    fn release(&self, release: &str, revision: &str) {
        self.write("headers/Module.symvers", "");
        self.write(
            "headers/include/generated/utsrelease.h",
            &format!("#define UTS_RELEASE \"{release}\"\n"),
        );
        self.write(
            "headers/include/generated/utsversion.h",
            &format!("#define UTS_VERSION \"#1 SMP Debian {revision} (2026-11-15)\"\n"),
        );
    }

    /// The package `linux-source-SERIES`, with as much of a kernel as tells its version.
    fn source(&self, version: &str) {
        let (series, patch) = version.rsplit_once('.').expect("7.3.4");
        let (major, minor) = series.split_once('.').expect("7.3");
        let name = format!("linux-source-{series}");
        self.write(
            &format!("{name}/Makefile"),
            &format!("VERSION = {major}\nPATCHLEVEL = {minor}\nSUBLEVEL = {patch}\n"),
        );
        self.write(&format!("{name}/arch/x86/Makefile"), "VERSION = 1\n");
        let archive = self.folder.join(format!("src/{name}.tar.xz"));
        let status = Command::new("tar")
            .args(["--create", "--xz", "--sort=name", "--directory"])
            .arg(&self.folder)
            .arg("--file")
            .arg(archive)
            .arg(name)
            .status();
        assert!(status.expect("tar is there").success());
    }

    /// What apt could install: names and versions of packages.
    fn archive(&self, packages: &[(&str, &str)]) {
        let lines = |form: fn(&str, &str) -> String| -> String {
            packages
                .iter()
                .map(|(name, version)| form(name, version))
                .collect()
        };
        self.write("names", &lines(|name, _| format!("{name}\n")));
        self.write(
            "versions",
            &lines(|name, version| format!("{name} | {version} | the archive\n")),
        );
        let folder = self.folder.display();
        self.program(
            "apt-cache",
            &format!(
                "case $1 in\n\
                 pkgnames) grep \"^$2\" {folder}/names ;;\n\
                 madison) grep \"^$2 \" {folder}/versions ;;\n\
                 esac"
            ),
        );
    }

    /// Metadata of before, or as much of them as shows whether they stay.
    fn make_before(&self) {
        self.write(MADE, "made before");
    }

    fn still_has_what_was_made(&self) -> bool {
        fs::read(self.folder.join(MADE)).is_ok_and(|text| text == b"made before")
    }

    /// Runs a script of the project on this machine.
    fn run(&self, script: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        assert!(
            Path::new("/etc/kvm_inspect_root").exists(),
            "run it in the build root: elsewhere the host would see what is mounted here"
        );
        let path = std::env::var("PATH").expect("there is a PATH");
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "unchanged", "sh", "-ec"])
            .arg("mount --bind \"$0\" /usr/src && exec \"$@\"")
            .arg(self.folder.join("src"))
            .arg(project().join("scripts").join(script))
            .args(arguments)
            .env("PATH", format!("{}/bin:{path}", self.folder.display()))
            .envs(variables.iter().copied())
            .output()
            .expect("it is run");
        let both = [output.stdout, output.stderr].concat();
        Said {
            text: String::from_utf8(both).expect("text"),
            ok: output.status.success(),
        }
    }

    /// Runs `scripts/rust-metadata` for the headers.
    fn metadata(&self, variables: &[(&str, &str)]) -> Said {
        let path = |name| self.folder.join(name).display().to_string();
        self.run(
            "rust-metadata",
            &[&path("headers"), &path("out")],
            variables,
        )
    }

    /// Runs `scripts/kernel --choose` for a kernel of `tests/kernels.toml`.
    fn choose(&self, name: &str) -> Said {
        self.run("kernel", &["--choose", name, "x"], &[])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).expect("the folder is there");
    }
}

impl Said {
    /// Fails unless the script failed with one line that has all of these words.
    #[track_caller]
    fn refuses(&self, words: &[&str]) {
        assert!(!self.ok, "{}", self.text);
        assert_eq!(self.text.trim_end().lines().count(), 1, "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "{word} is not in: {}", self.text);
        }
    }
}

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Returns what `tests/kernels.toml` has under a key for the stock kernel.
fn stock(key: &str) -> String {
    let text = fs::read_to_string(project().join("tests/kernels.toml")).expect("it is there");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key} = ")));
    line.expect("the first kernel has it")
        .trim_matches('"')
        .to_owned()
}

#[test]
fn headers_have_to_be_there() {
    let machine = Machine::new();
    machine
        .metadata(&[])
        .refuses(&["no kernel headers", "linux-headers-", "KDIR="]);
}

#[test]
fn a_kernel_without_rust_is_told_what_to_do() {
    let machine = Machine::new();
    machine.write("headers/.config", "# CONFIG_RUST is not set\n");
    machine.release("6.12.117+deb13-amd64", "6.12.117-1");
    machine.metadata(&[]).refuses(&[
        "6.12.117+deb13-amd64",
        "CONFIG_RUST",
        "apt install -t trixie-backports linux-image-amd64 linux-headers-amd64",
    ]);
}

#[test]
fn another_compiler_is_refused_by_the_package_that_fits() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1");
    machine.program("rustc", "echo 'rustc 1.97.1 (of another release)'");
    machine.archive(&[
        ("rustc", "1.97.1+dfsg1-1~bpo13+1"),
        ("rustc", "1.85.1+dfsg1-1+deb13u1"),
    ]);
    machine.metadata(&[]).refuses(&[
        "1.97.1",
        "apt install rustc=1.85.1+dfsg1-1+deb13u1 rust-src=1.85.1+dfsg1-1+deb13u1",
    ]);
}

#[test]
fn a_source_that_moved_on_is_refused_before_anything_is_deleted() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1");
    machine.source("7.3.5");
    machine.archive(&[
        ("linux-source-7.3", "7.3.5-1~bpo13+1"),
        ("linux-source-7.3", "7.3.4-1~bpo13+1"),
    ]);
    machine.make_before();
    machine.metadata(&[]).refuses(&[
        "linux-source-7.3.tar.xz is of 7.3.5",
        "apt install --allow-downgrades linux-source-7.3=7.3.4-1~bpo13+1",
    ]);
    assert!(machine.still_has_what_was_made());
}

#[test]
fn a_source_that_has_gone_is_told_with_what_else_can_be_done() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1");
    machine.archive(&[("linux-source-7.3", "7.3.5-1~bpo13+1")]);
    machine
        .metadata(&[])
        .refuses(&["7.3.4-1~bpo13+1", "SOURCE=", "KDIR=", "newer kernel"]);
}

#[test]
fn another_revision_of_the_same_version_is_noticed() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "7.3.4-2");
    machine.source("7.3.4");
    machine.program(
        "dpkg-query",
        "case $1 in --search) echo linux-source-7.3: /x ;; *) printf 7.3.4-1 ;; esac",
    );
    machine
        .metadata(&[])
        .refuses(&["source of 7.3.4-2", "is of 7.3.4-1"]);
}

#[test]
fn the_source_that_fits_is_found_among_several() {
    let machine = Machine::new();
    machine.headers("7.2.12+deb13-amd64", "7.2.12-1~bpo13+1");
    machine.source("7.3.4");
    machine.source("7.2.12");
    // It has none of what is built.
    let said = machine.metadata(&[]);
    assert!(
        !said.ok && !said.text.contains("is needed"),
        "{}",
        said.text
    );
    assert!(
        said.text.contains("source of Linux 7.2.12"),
        "{}",
        said.text
    );
    // Nobody knows which package it came with.
    assert!(said.text.contains("cannot be known"), "{}", said.text);
}

#[test]
fn a_failed_try_leaves_what_was_there_and_nothing_else() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1");
    machine.source("7.3.4");
    machine.make_before();
    machine.write(
        "out.tree.0123456789ab/source/Makefile",
        "of one that was killed",
    );
    assert!(
        !machine.metadata(&[]).ok,
        "the source has none of what is built"
    );
    let names = fs::read_dir(&machine.folder)
        .expect("it is there")
        .map(|entry| {
            let name = entry.expect("it is there").file_name();
            name.into_string().expect("text")
        });
    let mut names: Vec<_> = names.filter(|name| name.starts_with("out")).collect();
    names.sort();
    assert_eq!(names, ["out"]);
    assert!(machine.still_has_what_was_made());
}

#[test]
fn a_source_in_which_something_was_built_is_refused() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "");
    let makefile = "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n";
    machine.write("mine/Makefile", makefile);
    machine.write("mine/.config", "");
    let mine = machine.folder.join("mine").display().to_string();
    machine
        .metadata(&[("SOURCE", &mine)])
        .refuses(&["make mrproper"]);
}

#[test]
fn a_source_may_be_named() {
    let machine = Machine::new();
    machine.headers("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1");
    machine.source("7.3.5");
    let folder = machine
        .folder
        .join("linux-source-7.3")
        .display()
        .to_string();
    machine
        .metadata(&[("SOURCE", &folder)])
        .refuses(&[&format!("{folder} is of 7.3.5")]);
    machine
        .metadata(&[("SOURCE", "/nowhere.tar.xz")])
        .refuses(&["/nowhere.tar.xz is of no version that can be read"]);
}

#[test]
fn headers_with_all_that_is_needed_ask_for_no_source() {
    let machine = Machine::new();
    machine.headers("7.3.4-arch1", "");
    for path in [
        "rust/libkernel.rmeta",
        "rust/libmacros.so",
        "scripts/target.json",
        "arch/x86/kvm/svm/svm.h",
        "arch/x86/include/asm/kvm_host.h",
        "Makefile",
    ] {
        machine.write(&format!("headers/{path}"), path);
    }
    let said = machine.metadata(&[]);
    assert!(said.ok, "{}", said.text);
    for path in [
        "rust/libkernel.rmeta",
        "arch/x86/kvm/svm/svm.h",
        "Module.symvers",
    ] {
        let is_there = machine.folder.join("out").join(path).exists();
        assert!(is_there, "{path} is missing");
    }
}

#[test]
fn headers_without_those_of_kvm_ask_for_these() {
    let machine = Machine::new();
    machine.headers("7.3.4-arch1", "");
    machine.write("headers/rust/libkernel.rmeta", "");
    machine.write("headers/rust/libmacros.so", "");
    machine
        .metadata(&[])
        .refuses(&["for KVM's own headers", "SOURCE="]);
}

#[test]
fn a_series_that_nobody_knows_is_told_before_its_source_is_asked_for() {
    let machine = Machine::new();
    machine.headers("9.1.0+deb13-amd64", "9.1.0-1");
    machine.archive(&[("linux-source-9.1", "9.1.0-1")]);
    machine.metadata(&[]).refuses(&[
        "made for Linux 7.2 and 7.3, not for 9.1.0+deb13-amd64",
        "newer kvm_inspect",
        "linux-source-9.1=9.1.0-1",
    ]);
}

#[test]
fn a_series_that_nobody_knows_is_one_message() {
    let machine = Machine::new();
    machine.headers("9.1.0+deb13-amd64", "9.1.0-1");
    machine.write(
        "headers/Makefile",
        "modules:\n\t@for i in 1 2 3 4; do echo \"error: $$i\"; done; false\n",
    );
    let out = machine.folder.join("module").display().to_string();
    let headers = machine.folder.join("headers").display().to_string();
    let source = project().join("tests/cases/modules").display().to_string();
    let said = machine.run("build-module", &[&headers, &source, &out], &[]);
    assert!(!said.ok && !said.text.contains("error: 4"), "{}", said.text);
    for word in [
        "made for Linux 7.2 and 7.3",
        "9.1.0+deb13-amd64",
        "build/log/",
    ] {
        assert!(said.text.contains(word), "{word} is not in: {}", said.text);
    }
}

#[test]
fn the_tested_kernel_is_taken_while_the_archive_has_it() {
    let machine = Machine::new();
    let (tested, series) = (stock("tested"), stock("series"));
    let source = format!("linux-source-{series}");
    let headers = format!("linux-headers-{tested}");
    let newer = format!("linux-headers-{series}.99+deb13-amd64");
    machine.archive(&[
        (&headers, "1-1"),
        (&newer, "2-1"),
        (&source, "2-1"),
        (&source, "1-1"),
    ]);
    let said = machine.choose("stock");
    assert_eq!(said.text, format!("{tested} 1-1\n"));
    // Its source has gone.
    machine.archive(&[(&headers, "1-1"), (&newer, "2-1"), (&source, "2-1")]);
    let said = machine.choose("stock");
    assert!(
        said.text
            .starts_with(&format!("{series}.99+deb13-amd64 2-1\n")),
        "{}",
        said.text
    );
    assert!(
        said.text.contains("Note: ") && said.text.contains(&tested),
        "{}",
        said.text
    );
}

#[test]
fn a_newer_series_is_taken_when_the_old_one_has_gone() {
    let machine = Machine::new();
    machine.archive(&[
        ("linux-headers-9.1.7+deb13-amd64", "9.1.7-1"),
        ("linux-headers-9.1.8+deb13-rt-amd64", "9.1.8-1"),
        ("linux-source-9.1", "9.1.7-1"),
        ("linux-source-9.1", "9.1.8-1"),
        ("linux-headers-6.12.117+deb13-amd64", "6.12.117-1"),
        ("linux-source-6.12", "6.12.117-1"),
    ]);
    for name in ["stock", "7.2"] {
        let said = machine.choose(name).text;
        let taken = "9.1.7+deb13-amd64 9.1.7-1\nNote: ";
        assert!(said.starts_with(taken), "{name}: {said}");
    }
}

#[test]
fn between_two_uploads_what_fits_together_is_taken() {
    let machine = Machine::new();
    machine.archive(&[
        ("linux-headers-7.2.13+deb13-amd64", "7.2.13-1"),
        ("linux-headers-7.2.12+deb13-amd64", "7.2.12-1"),
        ("linux-source-7.2", "7.2.12-1"),
    ]);
    assert_eq!(machine.choose("7.2").text, "7.2.12+deb13-amd64 7.2.12-1\n");
    machine.archive(&[("linux-headers-7.2.13+deb13-amd64", "7.2.13-1")]);
    machine
        .choose("7.2")
        .refuses(&["no kernel 7.2-amd64 with headers and source"]);
    machine
        .choose("7.1")
        .refuses(&["no kernel 7.1", "stock cloud rt 7.2"]);
}
