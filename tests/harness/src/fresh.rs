// SPDX-License-Identifier: GPL-2.0

//! Refuses to test what is older than its sources.
//!
//! The builds of the module and of the programs for the VMs keep a list of their inputs
//! (`scripts/inputs`). It is compared with the files of now.

use std::{fs, io, path::Path, process::Command};

use crate::{paths, testbed::Testbed};

/// Checks that the modules and the programs are as new as their sources.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_testbed(testbed: &Testbed) -> io::Result<()> {
    check_module(testbed)?;
    check(
        &testbed.test_modules.join("inputs"),
        &["tests/cases/modules"],
    )?;
    check_programs()
}

/// Checks that the module is as new as its sources.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_module(testbed: &Testbed) -> io::Result<()> {
    check(&testbed.module.with_file_name("inputs"), &["Kbuild", "src"])
}

/// Checks that the programs for the VMs are as new as their sources.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_programs() -> io::Result<()> {
    const SOURCES: &[&str] = &[
        "Cargo.toml",
        "Cargo.lock",
        "tests/cases",
        "tests/consumers/Cargo.toml",
        "tests/consumers/src",
        "tests/demo",
        "tests/pattern-sets",
        "tools",
    ];
    check(&paths::build().join("programs.inputs"), SOURCES)
}

/// Checks that none of `sources`, files and folders of the project, has changed since `list` was
/// made.
///
/// # Errors
///
/// One has, or there is no list. The error says what to do.
fn check(list: &Path, sources: &[&str]) -> io::Result<()> {
    let stale = |why: String| {
        io::Error::other(format!(
            "{why}; run the tests by make (make help), which builds it"
        ))
    };
    let name = list.display();
    let built = fs::read_to_string(list).map_err(|error| stale(format!("{name}: {error}")))?;
    let output = Command::new(paths::project().join("scripts/inputs"))
        .args(sources)
        .output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(message));
    }
    match changed(&built, &String::from_utf8_lossy(&output.stdout)) {
        None => Ok(()),
        Some(path) => Err(stale(format!("{path} has changed since {name} was made"))),
    }
}

/// Returns the first file that is in one list only, or that differs.
fn changed<'a>(built: &'a str, now: &'a str) -> Option<&'a str> {
    let (built_lines, now_lines) = (built.lines(), now.lines());
    let mut gone = built_lines.filter(|line| !now.lines().any(|other| other == *line));
    let mut come = now_lines.filter(|line| !built.lines().any(|other| other == *line));
    let line = come.next().or_else(|| gone.next())?;
    // After the name come the size and the time.
    line.rsplitn(3, ' ').nth(2)
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn what_has_changed_is_named() {
        let built = "src/a.rs 10 1.5\nsrc/b c.rs 20 2.5\n";
        assert_eq!(changed(built, built), None);
        assert_eq!(
            changed(built, "src/a.rs 10 1.5\nsrc/b c.rs 20 2.6\n"),
            Some("src/b c.rs")
        );
        assert_eq!(
            changed(built, &format!("{built}src/d.rs 1 1.0\n")),
            Some("src/d.rs")
        );
        assert_eq!(changed(built, "src/a.rs 10 1.5\n"), Some("src/b c.rs"));
    }
}
