// SPDX-License-Identifier: GPL-2.0

//! The program `kvm-inspect`, as a user runs it, without the module.

mod pty;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use self::pty::Pty;

/// All that users see.
const COMMANDS: [&str; 8] = [
    "list", "regs", "slots", "search", "read", "info", "dmesg", "dump",
];

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvm-inspect"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Checks that a run has failed with one line, and returns that.
fn error_of(output: &Output, status: i32) -> String {
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{line}");
    assert_eq!(text(&output.stdout), "");
    let line = line.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "{line}");
    let line = line.strip_prefix("kvm-inspect: error: ").expect("an error");
    assert!(line.contains("; "), "{line}");
    line.to_owned()
}

/// Makes a folder like `/proc`, with one VM of each name.
fn proc(names: &[&str]) -> TempDir {
    let proc = TempDir::new().expect("a folder");
    for (index, name) in names.iter().enumerate() {
        let folder = proc.path().join((800 + index).to_string());
        fs::create_dir_all(folder.join("fd")).expect("created");
        symlink("anon_inode:kvm-vm", folder.join("fd/9")).expect("linked");
        symlink("anon_inode:kvm-vcpu:0", folder.join("fd/10")).expect("linked");
        let arguments = format!("qemu-system-x86_64\0-name\0{name}\0");
        fs::write(folder.join("cmdline"), arguments).expect("written");
        fs::write(folder.join("statm"), "9 512 1").expect("written");
    }
    proc
}

fn list(proc: &Path, arguments: &[&str]) -> Output {
    let proc = proc.to_str().expect("UTF-8");
    run(&[&["list", "--proc", proc], arguments].concat())
}

#[test]
fn help_has_examples_for_each_command() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = text(&help.stdout);
    assert!(help.contains("Exit status: 0 done, 1 failed, 2 usage, 3 done, but incomplete"));
    assert!(!help.contains("completions"));
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let output = run(&[command, "--help"]);
        assert!(output.status.success());
        let help = text(&output.stdout);
        assert!(
            help.contains(&format!("Examples:\n  kvm-inspect {command}")),
            "{help}"
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
    }
    assert!(text(&run(&["--version"]).stdout).starts_with("kvm-inspect "));
}

#[test]
fn wrong_usage_has_a_status_of_its_own() {
    for arguments in [
        &["lst"][..],
        &["list", "--nothing"],
        &["regs", "web"],
        &["read"],
        &["read", "0-"],
        &["search"],
        &["search", "secret"],
        &["search", "text:a", "--one-pause", "--max-pause", "1s"],
        &["search", "text:a", "--max-pause", "0"],
        &["search", "text:a", "--context", "65"],
        &["search", "text:a", "--range", "2-1"],
        &["search", "text:a", "--engine", "sse"],
        &["completions", "tcsh"],
        &["man", "nothing"],
    ] {
        error_of(&run(arguments), 2);
    }
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("Usage: kvm-inspect"));
}

#[test]
fn what_the_user_typed_is_escaped() {
    let line = error_of(&run(&["\x1b[2J"]), 2);
    assert!(!line.contains('\x1b'), "{line:?}");
}

#[test]
fn without_the_module_the_error_says_how_to_load_it() {
    if Path::new("/dev/kvm_inspect").exists() || Path::new("/sys/module/kvm_inspect").exists() {
        return;
    }
    let proc = proc(&["web"]);
    let proc = proc.path().to_str().expect("UTF-8");
    for arguments in [
        &["regs", "--proc", proc][..],
        &["slots", "800", "--proc", proc],
        &["search", "text:a", "--proc", proc],
        &["read", "0x1000", "--proc", proc, "--json"],
    ] {
        let line = error_of(&run(arguments), 1);
        assert!(line.starts_with("the module is not loaded; load it: modprobe kvm_inspect"));
    }
}

#[test]
fn a_host_without_a_vm_has_an_empty_list() {
    let proc = proc(&[]);
    let output = list(proc.path(), &[]);
    assert!(output.status.success());
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        ("", "kvm-inspect: there is no VM\n")
    );
    let output = list(proc.path(), &["--json"]);
    assert_eq!(
        text(&output.stdout),
        "{\"json_version\":1,\"vm\":[],\"hidden\":0}\n"
    );
    assert_eq!(text(&list(proc.path(), &["-q"]).stderr), "");
}

#[test]
fn a_list_has_a_line_for_each_vm() {
    let proc = proc(&["web", "\x1b]0;evil\x07\u{202e}"]);
    let output = list(proc.path(), &[]);
    let lines = text(&output.stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(
        lines,
        [
            "    PID   FD  VMM                VCPUS         RSS  NAME",
            "    800    9  qemu-system-x86_64     1     2.0 MiB  web",
            "    801    9  qemu-system-x86_64     1     2.0 MiB  \\u{1b}]0;evil\\u{7}\\u{202e}",
        ]
    );
    assert_eq!(text(&list(proc.path(), &["-q"]).stdout), "800-9\n801-9\n");
    let json = text(&list(proc.path(), &["--json"]).stdout);
    assert!(
        json.contains(r#""name":"\u001b]0;evil\u0007\u202e""#),
        "{json}"
    );
}

#[test]
fn only_a_terminal_gets_colours() {
    let proc = proc(&["web"]);
    let path = proc.path().to_str().expect("UTF-8");
    let on_terminal = |term: &str, no_color: &str| {
        let mut pty = Pty::new();
        let mut command = program(&["list", "--proc", path]);
        command.env("TERM", term).env("NO_COLOR", no_color);
        command.stdout(pty.stdio()).stderr(pty.stdio());
        let mut running = command.spawn().expect("it runs");
        drop(command);
        let written = pty.rest();
        assert!(running.wait().expect("it ends").success());
        written
    };
    assert!(on_terminal("xterm", "").starts_with("\x1b[1m    PID "));
    for (term, no_color) in [("xterm", "1"), ("dumb", ""), ("dumb", "1")] {
        let written = on_terminal(term, no_color);
        assert!(written.starts_with("    PID "), "{written:?}");
        assert!(!written.contains('\x1b'), "{written:?}");
    }
}

#[test]
fn an_error_on_a_terminal_is_one_line() {
    let mut pty = Pty::new();
    let mut command = program(&["list", "--proc", "/nonexistent"]);
    command.env("TERM", "xterm");
    command.stdout(pty.stdio()).stderr(pty.stdio());
    let mut running = command.spawn().expect("it runs");
    drop(command);
    let seen = pty::seen(&pty.rest());
    assert_eq!(running.wait().expect("it ends").code(), Some(1));
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with("kvm-inspect: error: "), "{seen:?}");
}

#[test]
fn a_folder_of_processes_that_is_none_is_an_error() {
    let line = error_of(&list(Path::new("/nonexistent"), &[]), 1);
    assert!(line.ends_with("; mount /proc"), "{line}");
}

#[test]
fn the_real_list_can_be_had() {
    let output = run(&["list", "--json"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).starts_with("{\"json_version\":1,\"vm\":["));
}

#[test]
fn who_ends_reading_is_no_error() {
    let proc = proc(&["web"]);
    let path = proc.path().to_str().expect("UTF-8");
    for arguments in [&["list", "--proc", path][..], &["man"], &["--help"]] {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        drop(reader);
        let output = program(arguments).stdout(writer).output().expect("it runs");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

/// Gives a text to a program that checks it, and returns what that complains of, if it is here.
fn complaints(program: &str, arguments: &[&str], text: &[u8]) -> Option<String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text).expect("written");
    let checked = Command::new(program)
        .args(arguments)
        .arg(file.path())
        .env("LC_ALL", "C.UTF-8")
        .output();
    let Ok(output) = checked else {
        // Not by a macro, which shows nothing if the test passes.
        let _ = writeln!(io::stderr(), "skipped: there is no {program}");
        return None;
    };
    let ending = if output.status.success() {
        ""
    } else {
        "it failed"
    };
    Some(format!(
        "{}{ending}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[test]
fn shells_get_completions() {
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        for word in ["search", "max-pause", "freeze-timeout"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let complaints = complaints(shell, &[check], &output.stdout);
        assert_eq!(complaints.unwrap_or_default(), "", "{shell}");
    }
    let broken = complaints("bash", &["-n"], b"case (");
    assert!(broken.is_none_or(|complaints| complaints.ends_with("it failed")));
}

#[test]
fn bash_completes_commands_and_options() {
    let script = text(&run(&["completions", "bash"]).stdout);
    for (before, word, expected) in [
        ("kvm-inspect", "re", "regs read"),
        ("kvm-inspect search", "--max-p", "--max-pause"),
    ] {
        // As bash does: the function gets the program, the word, and the one before it.
        let ask = format!(
            r#"{script}
            [[ $(complete -p kvm-inspect) =~ -F\ ([^ ]*) ]]
            COMP_WORDS=({before} {word}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            ${{BASH_REMATCH[1]}} kvm-inspect {word} "${{COMP_WORDS[COMP_CWORD - 1]}}"
            echo "${{COMPREPLY[*]}}"
            "#,
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-s"]).stdout(Stdio::piped());
        let mut running = bash.stdin(Stdio::piped()).spawn().expect("bash");
        let mut input = running.stdin.take().expect("a pipe");
        input.write_all(ask.as_bytes()).expect("written");
        drop(input);
        let output = running.wait_with_output().expect("it ends");
        assert_eq!(text(&output.stdout).trim_end(), expected);
    }
}

#[test]
fn there_is_a_page_for_each_command() {
    let page = text(&run(&["man"]).stdout);
    assert!(page.contains(".TH kvm-inspect 1"), "{page}");
    check_page(&page);
    for command in COMMANDS {
        assert!(page.contains(&format!("\nkvm\\-inspect\\-{command}(1)\n")));
        let page = text(&run(&["man", command]).stdout);
        assert!(
            page.contains(&format!("kvm\\-inspect\\-{command} \\- ")),
            "{page}"
        );
        assert!(page.contains("Examples"), "{page}");
        check_page(&page);
    }
}

/// Checks that a page of the manual is one.
fn check_page(page: &str) {
    // Each groff takes that, whatever it takes bytes for.
    assert!(page.is_ascii(), "{page}");
    let version = concat!("\"kvm-inspect ", env!("CARGO_PKG_VERSION"), "\"");
    assert!(page.contains(version), "{page}");
    let groff = complaints("groff", &["-ww", "-man", "-Tascii", "-z"], page.as_bytes());
    assert_eq!(groff.unwrap_or_default(), "", "{page}");
}

#[test]
fn a_terminal_gets_no_raw_memory() {
    // Standard output is a pipe here; a file that is there is refused as early.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let line = error_of(&run(&["read", "0x1000", "-o", path]), 1);
    assert!(line.contains("is there already; "), "{line}");
}
