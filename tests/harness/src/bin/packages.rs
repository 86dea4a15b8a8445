// SPDX-License-Identifier: GPL-2.0

//! Boots two hosts from a Debian system with the packages, each with a guest, and has Ansible
//! search both, as `docs/fleet.md` tells.
//!
//! `packages FOLDER VERSION`: the folder, of `scripts/test-packages`, has the system (`root`), its
//! kernel (`kernel`), the packages (`deb`), and a key to log in with (`key`).

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use clap::Parser;
use demo::installed::{DONE, KEY, READY, VERSION};
use harness::{
    nested::{Guest, Installed, Scenario},
    paths,
};
use serde_json::{json, Value};

/// The names of the hosts. A third one in the inventory does not answer.
const HOSTS: [&str; 2] = ["first", "second"];

/// Tests the packages on hosts that are booted.
#[derive(Parser)]
struct Arguments {
    /// The folder of scripts/test-packages
    folder: PathBuf,
    /// The version that the packages should have
    version: String,
}

/// What the thread of a host says: the guest's secret, when it can be logged in to, and in the end
/// its results.
enum News {
    Ready(usize, String),
    Ended(usize, io::Result<String>),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => {
            println!("2 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("packages ... FAILED: {why}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    // Ansible has another current folder.
    let folder = &arguments.folder.canonicalize()?;
    let key = fs::read_to_string(folder.join("key.pub"))?;
    let key = key.split_whitespace().nth(1).unwrap_or_default();
    let parameters = format!("{VERSION}{} {KEY}{key}", arguments.version);
    // Bound at once, so that they differ; free again when QEMU takes them.
    let listeners: Vec<TcpListener> = HOSTS
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    drop(listeners);

    let (sender, news) = mpsc::channel();
    thread::scope(|scope| {
        for (number, port) in ports.iter().copied().enumerate() {
            let (sender, parameters) = (sender.clone(), &parameters);
            scope.spawn(move || {
                let host = Installed {
                    root: folder.join("root"),
                    kernel: folder.join("kernel"),
                    port,
                };
                let scenario = Scenario {
                    name: "installed",
                    parameters,
                    guest: Guest::Installed(&host),
                    log: &format!("packages/{}", HOSTS[number]),
                    memory: 1536,
                    limit: Duration::from_secs(900),
                };
                let ended = scenario.run(|line| {
                    println!("  {:6}  {line}", HOSTS[number]);
                    if let Some(secret) = line.strip_prefix(READY) {
                        let _ = sender.send(News::Ready(number, secret.to_owned()));
                    }
                });
                let _ = sender.send(News::Ended(number, ended));
            });
        }
        let searched = wait_until_ready(&news).and_then(|secret| search(folder, &ports, &secret));
        // Also after a failure, so that the hosts end.
        for port in &ports {
            let done = ssh(folder, *port).arg("touch").arg(DONE).output();
            drop(done);
        }
        let mut ended = Ok(());
        drop(sender);
        for part in &news {
            if let News::Ended(number, Err(why)) = part {
                ended = Err(io::Error::other(format!("{}: {why}", HOSTS[number])));
            }
        }
        searched.and(ended)
    })
}

/// Waits for all hosts. Returns the secret of the first one's guest.
fn wait_until_ready(news: &Receiver<News>) -> io::Result<String> {
    let mut secrets = [const { None }; HOSTS.len()];
    while secrets.iter().any(Option::is_none) {
        match news.recv().map_err(io::Error::other)? {
            News::Ready(number, secret) => secrets[number] = Some(secret),
            News::Ended(number, ended) => {
                let why = ended
                    .err()
                    .map_or("too soon".to_owned(), |why| why.to_string());
                return Err(io::Error::other(format!("{} ended: {why}", HOSTS[number])));
            }
        }
    }
    let [first, _] = secrets;
    first.ok_or_else(|| io::Error::other("the guest has no secret"))
}

/// Has Ansible install the command, and search the VMs of all hosts.
fn search(folder: &Path, ports: &[u16], secret: &str) -> io::Result<()> {
    let key = folder.join("key").display().to_string();
    let mut inventory = String::from("[hypervisors]\n");
    for (host, port) in HOSTS.iter().zip(ports) {
        inventory += &format!("{host} ansible_host=127.0.0.1 ansible_port={port}\n");
    }
    // One that does not answer keeps nobody from being searched.
    inventory += "absent ansible_host=127.0.0.1 ansible_port=1\n\n[hypervisors:vars]\n";
    inventory += "ansible_user=root\nansible_become=false\n";
    inventory += &format!("ansible_ssh_private_key_file={key}\n");
    let path = folder.join("inventory.ini");
    fs::write(&path, inventory)?;
    let results = folder.join("results");
    // Of an earlier run, on a host that answers, and on one that does no more.
    for host in [HOSTS[0], "absent"] {
        fs::create_dir_all(results.join(host))?;
        fs::write(results.join(host).join("1-1.json"), "{}")?;
    }
    let output = Command::new("ansible-playbook")
        .arg("--inventory")
        .arg(&path)
        .arg(paths::project().join("packaging/fleet/search.yml"))
        .args([
            "--extra-vars",
            &json!({ "pattern": escaped(secret) }).to_string(),
        ])
        .args(["--extra-vars", "max_pause=60s"])
        .args([
            "--extra-vars",
            &format!("packages={}", folder.join("deb").display()),
        ])
        .args(["--extra-vars", &format!("results={}", results.display())])
        .env("ANSIBLE_HOST_KEY_CHECKING", "false")
        .env("ANSIBLE_TIMEOUT", "120")
        .env("ANSIBLE_NOCOLOR", "true")
        .output()
        .map_err(|error| io::Error::other(format!("ansible-playbook: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = paths::log().join("packages/ansible.log");
    fs::write(&log, &text)?;
    let wrong = |why: &str| {
        let log = log.display();
        Err(io::Error::other(format!("ansible-playbook: {why} ({log})")))
    };
    // Of three hosts one was not reached, which must not look like success.
    if output.status.success() {
        return wrong("it succeeded, though a host is absent");
    }
    for (host, hits) in [(HOSTS[0], 1), (HOSTS[1], 0)] {
        let Ok(answers) = fs::read_dir(results.join(host)) else {
            return wrong(&format!("there are no answers of {host}"));
        };
        let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
        let [answer] = answers.as_slice() else {
            return wrong(&format!("{host} has {} answers", answers.len()));
        };
        let answer: Value = serde_json::from_str(&fs::read_to_string(answer.path())?)?;
        if answer["done"]["result"] != "ok" || answer["done"]["hits"] != hits {
            return wrong(&format!("{host} found {}", answer["done"]));
        }
        if !text.contains(&format!("{hits} hits, result=ok")) {
            return wrong(&format!("the summary lacks {host}"));
        }
    }
    if fs::read_dir(results.join("absent"))?.next().is_some() {
        return wrong("an earlier answer of the absent host is there");
    }
    if !text.contains("absent not reached") {
        return wrong("the summary lacks the host that is absent");
    }
    if text.contains("may be loaded still") {
        return wrong("the module could not be unloaded");
    }
    println!("Ansible has searched both, and tells that a third one is absent:");
    for line in text
        .lines()
        .filter(|line| line.contains("hits, result=") || line.contains("not reached"))
    {
        println!("  {}", line.trim());
    }
    Ok(())
}

/// Returns the pattern for these hexadecimal digits as text, all of it escaped: backslashes must
/// come through.
fn escaped(digits: &str) -> String {
    let mut pattern = String::from("text:");
    for byte in digits.as_bytes().chunks(2) {
        pattern += "\\x";
        pattern += &String::from_utf8_lossy(byte);
    }
    pattern
}

/// Returns a command that runs another one on a host.
fn ssh(folder: &Path, port: u16) -> Command {
    let mut command = Command::new("ssh");
    command
        .arg("-i")
        .arg(folder.join("key"))
        .args(["-p", &port.to_string()])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ])
        .args(["-o", "ConnectTimeout=60", "-o", "BatchMode=yes"])
        .arg("root@127.0.0.1");
    command
}
