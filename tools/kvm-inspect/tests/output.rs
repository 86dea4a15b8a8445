// SPDX-License-Identifier: GPL-2.0

//! Files that appear whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::{symlink, MetadataExt},
    path::Path,
    process::Command,
    thread,
};

use kvm_inspect_tool::output::{manifest_path, Existing, Output, OutputError};
use sha2::{Digest, Sha256};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("names");
    let name = |entry: Result<fs::DirEntry, _>| entry.expect("a name").file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().expect("text"))
        .collect();
    names.sort_unstable();
    names
}

fn create(path: &Path) -> Output {
    Output::create(path, Existing::Refuse).expect("an output")
}

#[test]
fn a_file_and_its_manifest_appear_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("core");
    let mut output = create(&path);
    output.set_size(10).expect("a size");
    output.write_at(2, b"bytes").expect("written");
    assert_eq!(names(folder.path()), [""; 0]);
    output.commit(Some(b"{}")).expect("committed");
    assert_eq!(names(folder.path()), ["core", "core.json"]);
    assert_eq!(fs::read(&path).expect("the file"), b"\0\0bytes\0\0\0");
    assert_eq!(fs::read(manifest_path(&path)).expect("the manifest"), b"{}");
    for path in [&path, &manifest_path(&path)] {
        assert_eq!(
            fs::metadata(path).expect("it is there").mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn nothing_is_left_of_a_file_that_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut output = create(&folder.path().join("core"));
    output.write_at(0, b"bytes").expect("written");
    drop(output);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn what_is_there_is_not_replaced_unasked() {
    for taken in ["core", "core.json"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("core");
        fs::write(folder.path().join(taken), "old").expect("written");
        let error = Output::create(&path, Existing::Refuse)
            .err()
            .expect("refused");
        let text = error.to_string();
        assert!(
            text.contains(&format!("{taken} is there already; ")),
            "{text}"
        );
    }
}

#[test]
fn what_comes_meanwhile_is_not_replaced_unasked() {
    for (taken, left) in [("core", vec!["core"]), ("core.json", vec!["core.json"])] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = create(&folder.path().join("core"));
        fs::write(folder.path().join(taken), "another").expect("written");
        let result = output.commit(Some(b"{}"));
        assert!(matches!(result, Err(OutputError::Exists(_))), "{result:?}");
        assert_eq!(names(folder.path()), left, "no manifest without its file");
        let kept = fs::read(folder.path().join(taken)).expect("it is there");
        assert_eq!(kept, b"another");
    }
}

#[test]
fn what_is_there_is_replaced_when_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("core");
    fs::write(&path, "old").expect("written");
    fs::write(manifest_path(&path), "old").expect("written");
    let mut output = Output::create(&path, Existing::Replace).expect("an output");
    output.write_at(0, b"new").expect("written");
    assert_eq!(fs::read(&path).expect("it is there"), b"old");
    output.commit(Some(b"{}")).expect("committed");
    assert_eq!(fs::read(&path).expect("it is there"), b"new");
    assert_eq!(fs::read(manifest_path(&path)).expect("it is there"), b"{}");
    assert_eq!(names(folder.path()), ["core", "core.json"]);
}

#[test]
fn only_regular_files_are_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("target");
    fs::write(&target, "old").expect("written");
    let link = folder.path().join("link");
    symlink(&target, &link).expect("a link");
    for path in [link.as_path(), folder.path(), Path::new("/dev/null")] {
        let error = Output::create(path, Existing::Replace).err();
        assert!(
            matches!(error, Some(OutputError::NotRegular(_))),
            "{error:?}"
        );
    }
}

#[test]
fn strange_names_are_refused() {
    for name in ["", "/", ".", "..", "folder/", "folder/.", "folder/.."] {
        let error = Output::create(Path::new(name), Existing::Refuse).err();
        assert!(matches!(error, Some(OutputError::NoName(_))), "{name:?}");
    }
    let none = Output::create(Path::new("/there/is/none"), Existing::Refuse).err();
    let text = none.expect("refused").to_string();
    assert!(text.starts_with("cannot create /there/is/none"), "{text}");
}

#[test]
fn a_file_in_the_current_folder_needs_no_folder() {
    // Not committed, so nothing appears there.
    drop(create(Path::new("no-such-core")));
}

#[test]
fn digests_are_of_all_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut output = create(&folder.path().join("core"));
    let size = (3 << 20) + 123;
    let mut expected = vec![0; size];
    expected[1_000_000..1_000_005].copy_from_slice(b"bytes");
    output.set_size(size as u64).expect("a size");
    output.write_at(1_000_000, b"bytes").expect("written");
    let mut last = 0;
    let digest = output.sha256(&mut |done| {
        assert!(done > last);
        last = done;
    });
    let expected_digest: [u8; 32] = Sha256::digest(&expected).into();
    assert_eq!(digest.expect("a digest"), expected_digest);
    assert_eq!(last, size as u64);

    let mut stream = Output::stream(Vec::new());
    stream.write_at(1_000_000, b"bytes").expect("written");
    stream.set_size(size as u64).expect("filled up");
    assert_eq!(
        stream.sha256(&mut |_| {}).expect("a digest"),
        expected_digest
    );
}

#[test]
fn an_empty_file_has_a_digest() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = create(&folder.path().join("core"));
    let digest = output.sha256(&mut |_| {}).expect("a digest");
    assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(b"")));
}

#[test]
fn cleared_bytes_are_zeros_without_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("core");
    let mut output = create(&path);
    output.write_at(0, &vec![1; 1 << 20]).expect("written");
    output.clear_at(0, 1 << 20).expect("cleared");
    output.write_at(100, b"x").expect("written");
    output.commit(None).expect("committed");
    let metadata = fs::metadata(&path).expect("it is there");
    assert_eq!(metadata.size(), 1 << 20);
    assert!(metadata.blocks() * 512 <= 64 << 10);
}

#[test]
fn a_full_disk_is_told_as_such() {
    let full = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("it is there");
    let mut output = Output::stream(full);
    let error = output.write_at(0, b"bytes").expect_err("it is full");
    assert!(matches!(error, OutputError::Full(None)));
    let expected = "no space is left for standard output; make room, or write it elsewhere";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_reader_that_has_gone_is_told_as_such() {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    drop(reader);
    let mut output = Output::stream(File::from(writer));
    let error = output.write_at(0, b"bytes").expect_err("nobody reads");
    assert!(matches!(error, OutputError::BrokenPipe));
    assert!(error.to_string().contains("; "));
}

#[test]
fn a_stream_has_no_place_for_a_manifest() {
    let result = Output::stream(Vec::new()).commit(Some(b"{}"));
    assert!(matches!(result, Err(OutputError::NoPlace)));
    let spooled = Output::spooled_to(Vec::new()).expect("a file");
    assert!(matches!(
        spooled.commit(Some(b"{}")),
        Err(OutputError::NoPlace)
    ));
}

/// What is written again, and in any order, comes out of a pipe as it was at last.
#[test]
fn a_pipe_gets_a_spooled_file_when_it_is_whole() {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let mut output = Output::spooled_to(File::from(writer)).expect("a file");
    assert!(output.is_patchable() && output.path().is_none());
    output.set_size(3 << 20).expect("a size");
    output.write_at(2 << 20, b"first").expect("written");
    output.write_at(10, b"second").expect("written");
    output.write_at(2 << 20, b"third").expect("written");
    output.clear_at(12, 2).expect("cleared");
    let digest = output.sha256(&mut |_| {}).expect("a digest");
    let mut bytes = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| output.commit(None).expect("committed"));
        File::from(reader).read_to_end(&mut bytes).expect("read");
    });
    let mut expected = vec![0; 3 << 20];
    expected[10..16].copy_from_slice(b"se\0\0nd");
    expected[2 << 20..][..5].copy_from_slice(b"third");
    assert!(bytes == expected);
    assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(&expected)));
}

#[test]
fn a_reader_of_a_spooled_file_may_go() {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let mut output = Output::spooled_to(File::from(writer)).expect("a file");
    output.set_size(3 << 20).expect("a size");
    drop(reader);
    assert!(matches!(output.commit(None), Err(OutputError::BrokenPipe)));
}

#[test]
fn a_stream_may_have_no_digest() {
    let mut output = Output::stream(Vec::new());
    output.leave_undigested();
    output.write_at(0, b"bytes").expect("written");
    assert!(output.sha256(&mut |_| {}).is_err());
}

/// Returns a command that runs one ignored test of this program by a shell.
fn again(test: &str, before: &str) -> Command {
    let script = format!("{before} exec \"$0\" --exact \"$1\" --ignored --nocapture");
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    command
        .arg(std::env::current_exe().expect("this program"))
        .arg(test);
    command
}

#[test]
fn a_file_that_is_too_big_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = again("limited", "trap '' XFSZ; ulimit -f 128;");
    let output = command
        .env("FOLDER", folder.path())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
#[ignore = "another test runs it with a limit of 64 KiB"]
fn limited() {
    let Some(folder) = std::env::var_os("FOLDER") else {
        return;
    };
    let path = Path::new(&folder).join("core");
    let mut output = create(&path);
    let error = output.set_size(1 << 20).expect_err("it is above the limit");
    assert!(matches!(error, OutputError::TooBig(Some(_))), "{error:?}");
    let error = output
        .write_at(0, &vec![1; 1 << 20])
        .expect_err("it is above the limit");
    let text = error.to_string();
    assert!(
        text.contains("core is bigger than a file may be; see ulimit -f"),
        "{text}"
    );
}

#[test]
fn a_file_that_finds_no_space_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).expect("a folder");
    let mount = format!("mount -t tmpfs -o size=256k none '{}'", disk.display());
    // Of its own, so that a user may mount. There is none in a chroot, where two other tests have
    // to be enough: one has a limit, one has /dev/full.
    let namespace = ["--user", "--map-root-user", "--mount"];
    let mounts = Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", &mount])
        .output();
    if !mounts.is_ok_and(|mounts| mounts.status.success()) {
        eprintln!("not tested: nothing can be mounted here");
        return;
    }
    let count = format!("ls -A '{}' | wc -l", disk.display());
    let again = again("full", &format!("{mount} &&"));
    let script = format!("{}; {count}", "\"$@\"");
    let mut command = Command::new("unshare");
    command.args(namespace).args(["sh", "-c", &script, "sh"]);
    command.arg(again.get_program()).args(again.get_args());
    let output = command.env("FOLDER", &disk).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("test full ... ok"), "{output:?}");
    assert!(text.ends_with("\n0\n"), "{text}");
}

#[test]
#[ignore = "another test runs it with a full disk"]
fn full() {
    let Some(folder) = std::env::var_os("FOLDER") else {
        return;
    };
    let mut output = create(&Path::new(&folder).join("core"));
    output.set_size(1 << 30).expect("holes take no space");
    let error = output
        .write_at(0, &vec![1; 1 << 20])
        .expect_err("it is too much");
    let text = error.to_string();
    assert!(
        text.contains("no space is left for ") && text.contains("core; "),
        "{text}"
    );
}

#[test]
fn standard_output_gets_the_bytes() {
    let output = again("writes_to_standard_output", "")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let bytes = output.stdout;
    let found = bytes
        .windows(10)
        .filter(|window| window == b"\0\0bytes\0\0\0")
        .count();
    assert_eq!(found, 1);
}

#[test]
#[ignore = "another test runs it with a pipe"]
fn writes_to_standard_output() {
    let output = Output::open(Path::new("-"), Existing::Refuse);
    let Ok(mut output) = output else {
        return;
    };
    assert!(!output.is_patchable() && output.path().is_none());
    output.write_at(2, b"bytes").expect("written");
    output.set_size(10).expect("filled up");
    output.commit(None).expect("committed");
}

#[test]
fn nothing_is_left_after_a_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = again("killed", "");
    let status = command
        .env("FOLDER", folder.path())
        .status()
        .expect("it runs");
    assert!(!status.success());
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
#[ignore = "another test runs it, and it is killed"]
fn killed() {
    let Some(folder) = std::env::var_os("FOLDER") else {
        return;
    };
    let mut output = create(&Path::new(&folder).join("core"));
    output.write_at(0, b"bytes").expect("written");
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("a signal");
}
