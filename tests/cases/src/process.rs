// SPDX-License-Identifier: GPL-2.0

//! What `/proc` says about processes, memory and the machine.

use std::{
    fs::{self, File},
    mem::MaybeUninit,
    os::unix::fs::FileExt,
    thread,
    time::Duration,
};

use crate::patience::Patience;

/// The size of a page.
pub(crate) const PAGE: u64 = 4096;

/// Bit 63 of a pagemap entry: the page is mapped (`Documentation/admin-guide/mm/pagemap.rst`).
const PAGEMAP_PRESENT: u64 = 1 << 63;

/// Returns the number of this process.
pub(crate) fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("process numbers are positive")
}

/// Returns the resident memory of a process in KiB, exact to the page.
pub(crate) fn resident_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    field_kib(&text.expect("the process is there"), "Rss:").expect("there is an Rss line")
}

/// Returns the memory of this process's page tables, in KiB.
pub(crate) fn page_tables_kib() -> u64 {
    let text = fs::read_to_string("/proc/self/status");
    field_kib(&text.expect("there is this process"), "VmPTE:").expect("there is a VmPTE line")
}

/// Returns the transparent huge pages of the mapping at `address`, in KiB.
pub(crate) fn huge_kib(address: u64) -> u64 {
    mapping_kib(address, "AnonHugePages:")
}

/// Returns how much of the mapping at `address` is swapped out, in KiB. Of memory that is shared
/// that is what the file has in swap and no longer in memory.
pub(crate) fn swapped_kib(address: u64) -> u64 {
    mapping_kib(address, "Swap:")
}

/// Returns what `/proc/self/smaps` says about the mapping at `address`.
fn mapping_kib(address: u64, name: &str) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps can be read");
    let mut inside = false;
    for line in smaps.lines() {
        if let Some((first, last)) = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'))
        {
            let number = |text| u64::from_str_radix(text, 16);
            if let (Ok(first), Ok(last)) = (number(first), number(last)) {
                inside = (first..last).contains(&address);
            }
        }
        if let Some(kib) = field_kib(line, name).filter(|_| inside) {
            return kib;
        }
    }
    panic!("nothing is mapped at {address:#x}");
}

/// Returns the value of a line `NAME   N kB`.
fn field_kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

/// The page frame number in a pagemap entry of a mapped page.
const PAGEMAP_FRAME: u64 = (1 << 55) - 1;

/// Returns for each of `pages` pages from `address` on whether the kernel has it mapped.
pub(crate) fn present_pages(pid: i32, address: u64, pages: u64) -> Vec<bool> {
    let entries = pagemap(pid, address, pages);
    entries.map(|entry| entry & PAGEMAP_PRESENT != 0).collect()
}

/// Returns the page frames of `pages` pages of this process from `address` on. All must be mapped.
pub(crate) fn page_frames(address: u64, pages: u64) -> Vec<u64> {
    let entries = pagemap(own_pid(), address, pages);
    let frame = |entry| {
        assert!(entry & PAGEMAP_PRESENT != 0, "all of them are mapped");
        entry & PAGEMAP_FRAME
    };
    entries.map(frame).collect()
}

fn pagemap(pid: i32, address: u64, pages: u64) -> impl Iterator<Item = u64> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("the process is there");
    let mut entries = vec![0; usize::try_from(pages * 8).expect("it fits in memory")];
    pagemap
        .read_exact_at(&mut entries, address / PAGE * 8)
        .expect("pagemap covers all addresses");
    (0..entries.len()).step_by(8).map(move |at| {
        let entry = entries[at..at + 8].try_into();
        u64::from_ne_bytes(entry.expect("8 bytes"))
    })
}

/// Returns the state of a thread of this process, as in `/proc/PID/stat`: `R`, `S`, …
pub(crate) fn thread_state(tid: i32) -> char {
    state(&stat(&format!("/proc/self/task/{tid}")))
}

/// Returns the state of a process with one thread.
pub(crate) fn process_state(pid: i32) -> char {
    state(&stat(&format!("/proc/{pid}")))
}

/// Returns whether a thread of a process waits killably, as that of a parked vCPU does.
pub(crate) fn waits_killably(pid: i32) -> bool {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(folder).expect("the process is there");
    let mut threads = threads.flatten();
    threads.any(|thread| state(&stat(&thread.path().to_string_lossy())) == 'D')
}

/// Returns how much CPU time a process has used.
pub(crate) fn cpu_time(pid: i32) -> Duration {
    let (mut clock, mut time) = (0, MaybeUninit::<libc::timespec>::uninit());
    // SAFETY: Both pointers are valid for writing.
    let result = unsafe {
        match libc::clock_getcpuclockid(pid, &raw mut clock) {
            0 => libc::clock_gettime(clock, time.as_mut_ptr()),
            error => error,
        }
    };
    assert_eq!(result, 0, "process {pid} has a clock");
    // SAFETY: The call was successful, and has filled it in.
    let time = unsafe { time.assume_init() };
    let seconds = Duration::from_secs(time.tv_sec.try_into().expect("it is not negative"));
    seconds + Duration::from_nanos(time.tv_nsec.try_into().expect("it is not negative"))
}

/// Returns the part of a folder's `stat` after the name.
fn stat(folder: &str) -> String {
    let stat = fs::read_to_string(format!("{folder}/stat")).expect("it is there");
    let (_, rest) = stat.rsplit_once(") ").expect("the name is in parentheses");
    rest.to_owned()
}

fn state(stat: &str) -> char {
    stat.chars().next().expect("there is a state")
}

/// Returns whether the processor has a feature, by the kernel's name for it.
pub(crate) fn has_feature(name: &str) -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").expect("it can be read");
    let line = text.lines().find(|line| line.starts_with("flags"));
    let line = line.expect("there is a line of flags");
    line.split_whitespace().any(|feature| feature == name)
}

/// Waits until `condition` holds. Several steps are waited for one by one, each with its own limit.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_or(what, condition, || ());
}

/// Waits as [`wait_until`]. Calls `in_vain`, which may say more, before it gives up.
pub(crate) fn wait_or(what: &str, mut condition: impl FnMut() -> bool, in_vain: impl FnOnce()) {
    let mut patience = Patience::of(Duration::from_secs(60), Duration::from_millis(1));
    while !condition() {
        if !patience.nap() {
            in_vain();
            print_what_runs();
            panic!("waited in vain: {what}");
        }
    }
}

/// Prints what each thread of this process does. The kernel logs what each processor runs.
fn print_what_runs() {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    for task in tasks.flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        println!("{} {}", read("stat").trim(), read("syscall").trim());
        println!("{}", read("stack").trim());
    }
    // Some kernels lack it. It only helps.
    let _ = fs::write("/proc/sysrq-trigger", "l");
    thread::sleep(Duration::from_secs(1));
}

/// Returns the kernel's counter of an event.
pub(crate) fn vm_event(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/vmstat").expect("it can be read");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("the kernel does not count {name}"));
    value.trim().parse().expect("a number")
}

/// Lets a thread run on this CPU only; 0 is the current one.
pub(crate) fn pin(cpu: usize, thread: i32) {
    // SAFETY: All zeros are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: The number is one of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: The set has this size.
    let result = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
    assert_eq!(result, 0, "CPU {cpu}: {}", std::io::Error::last_os_error());
}
