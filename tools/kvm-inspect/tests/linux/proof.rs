// SPDX-License-Identifier: GPL-2.0

//! Which note is taken, of several.

use kvm_inspect_tool::{
    linux::{candidates, prove, Candidate, PointerError, Proof, RootError, MAX_CANDIDATES},
    paging::ControlRegisters,
};

use crate::guest::{Guest, Offsets, SWAPPER};

/// Where decoys are, below and above the true note.
const DECOYS: [u64; 2] = [0x40_0000, 0x1_0080_0000];

#[test]
fn the_only_note_is_proved_by_its_kernel() {
    for offsets in [
        Offsets::FromThemselves,
        Offsets::FromBase,
        Offsets::Absolute,
    ] {
        let guest = Guest::new(offsets);
        let gpas = candidates(&guest.memory, MAX_CANDIDATES).expect("it is memory");
        assert_eq!(gpas, [guest.note_gpa]);
        let proofs = prove(
            &guest.memory,
            &gpas,
            &[ControlRegisters::default(), guest.vcpu()],
        );
        let taken = proofs.taken().expect("it is proved");
        assert_eq!(
            (taken.proof(), &taken.vcpus[..]),
            (Proof::Pointer, &[1][..]),
            "{offsets:?}"
        );
        assert!(!proofs.is_ambiguous);
    }
}

/// Returns how a note with another text is proved, beside the true one.
fn decoy(change: impl Fn(&str) -> String) -> Proof {
    let mut proof = None;
    for decoy in DECOYS {
        let mut guest = Guest::new(Offsets::FromThemselves);
        guest.write_note(decoy, &change(&guest.note));
        let gpas = candidates(&guest.memory, MAX_CANDIDATES).expect("it is memory");
        assert_eq!(gpas.len(), 2);
        let proofs = prove(&guest.memory, &gpas, &[guest.vcpu()]);
        let taken = proofs.taken().expect("the true one is proved");
        assert_eq!(
            (taken.note.gpa, taken.proof()),
            (guest.note_gpa, Proof::Pointer)
        );
        assert!(!proofs.is_ambiguous);
        let other = proofs
            .candidates
            .iter()
            .find(|other| other.note.gpa == decoy);
        proof = other.map(Candidate::proof);
    }
    proof.expect("it is a candidate")
}

#[test]
fn a_copy_is_refuted() {
    assert_eq!(decoy(str::to_owned), Proof::Refuted);
}

#[test]
fn another_release_is_refuted() {
    assert_eq!(
        decoy(|note| note.replace("OSRELEASE=7", "OSRELEASE=8")),
        Proof::Refuted
    );
}

#[test]
fn another_phys_base_is_refuted() {
    let change = |note: &str| note.replace("(phys_base)=", "(phys_base)=1");
    assert_eq!(decoy(change), Proof::Refuted);
}

#[test]
fn another_root_is_refuted() {
    for offset in [0x1000, 0x2000, 0x4_0000] {
        let root = |root: u64| format!("SYMBOL(swapper_pg_dir)={root:x}");
        let change = |note: &str| note.replace(&root(SWAPPER), &root(SWAPPER + offset));
        assert_eq!(decoy(change), Proof::Refuted, "{offset:#x}");
    }
}

#[test]
fn a_note_without_a_root_is_not_proved() {
    let change = |note: &str| note.replace("swapper_pg_dir", "pg_dir");
    assert_eq!(decoy(change), Proof::None);
}

#[test]
fn a_note_without_symbols_is_not_told_from_a_copy() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    let note = guest.note.replace("kallsyms", "symbols");
    for gpa in [DECOYS[0], guest.note_gpa] {
        guest.write_note(gpa, &note);
    }
    let proofs = prove(&guest.memory, &[DECOYS[0], guest.note_gpa], &[]);
    let taken = proofs.taken().expect("one is taken");
    assert_eq!((taken.proof(), taken.note.gpa), (Proof::Root, DECOYS[0]));
    assert!(proofs.is_ambiguous);
    assert!(matches!(taken.pointer, Err(PointerError::Kallsyms(_))));
}

#[test]
fn the_kernel_that_vcpus_run_is_taken() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    let first = (guest.note_gpa, guest.vcpu());
    guest.boot(0x100_0000, 0x90_0000, Offsets::FromThemselves);
    let second = (guest.note_gpa, guest.vcpu());
    let gpas = [first.0, second.0];
    for (gpa, vcpu) in [first, second] {
        let proofs = prove(&guest.memory, &gpas, &[vcpu]);
        assert!(proofs
            .candidates
            .iter()
            .all(|other| other.proof() == Proof::Pointer));
        assert_eq!(proofs.taken().map(|taken| taken.note.gpa), Some(gpa));
        assert!(!proofs.is_ambiguous);
    }
    assert!(prove(&guest.memory, &gpas, &[]).is_ambiguous);
}

#[test]
fn a_kernel_that_ran_before_is_not_taken_for_its_better_proof() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    let old = guest.note_gpa;
    guest.boot(0x100_0000, 0x90_0000, Offsets::FromThemselves);
    guest.write_note(guest.note_gpa, &guest.note.replace("kallsyms", "symbols"));
    let proofs = prove(&guest.memory, &[old, guest.note_gpa], &[guest.vcpu()]);
    let all: Vec<Proof> = proofs.candidates.iter().map(Candidate::proof).collect();
    assert_eq!(all, [Proof::Pointer, Proof::Root]);
    assert_eq!(
        proofs.taken().map(|taken| taken.note.gpa),
        Some(guest.note_gpa)
    );
}

#[test]
fn one_that_is_not_proved_is_taken_only_alone() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    let unproved = guest.note.replace("phys_base", "no_base");
    guest.write_note(guest.note_gpa, &unproved);
    guest.write_note(DECOYS[0], &unproved.replace("OSRELEASE=7", "OSRELEASE=8"));
    let alone = prove(&guest.memory, &[guest.note_gpa], &[]);
    assert_eq!(alone.taken().map(Candidate::proof), Some(Proof::None));
    let both = prove(&guest.memory, &[DECOYS[0], guest.note_gpa], &[]);
    assert!(both.taken().is_none() && both.is_ambiguous);
}

#[test]
fn one_that_is_refuted_is_never_taken() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    guest.write_note(
        guest.note_gpa,
        &guest.note.replace("OSRELEASE=7", "OSRELEASE=8"),
    );
    let proofs = prove(
        &guest.memory,
        &[guest.note_gpa, 0x1000, 0x1008],
        &[guest.vcpu()],
    );
    assert!(proofs.taken().is_none() && !proofs.is_ambiguous);
    let error = proofs.candidates[0]
        .kernel
        .as_ref()
        .expect_err("the release differs");
    assert!(matches!(error, RootError::OtherRelease(release) if release == "7.3.4-test"));
    assert_eq!(proofs.others.len(), 2);
}

#[test]
fn only_so_many_are_looked_at() {
    let guest = Guest::new(Offsets::FromThemselves);
    let mut gpas = vec![0x1000; MAX_CANDIDATES];
    gpas.push(guest.note_gpa);
    let proofs = prove(&guest.memory, &gpas, &[]);
    assert_eq!((proofs.candidates.len(), proofs.omitted), (0, 1));
}

#[test]
fn many_copies_do_not_hide_the_true_note() {
    let mut guest = Guest::new(Offsets::FromThemselves);
    let mut gpas: Vec<u64> = (0..40).map(|page| DECOYS[0] + page * 0x2000).collect();
    let note = guest.note.clone();
    for gpa in &gpas {
        guest.write_note(*gpa, &note);
    }
    gpas.push(guest.note_gpa);
    let proofs = prove(&guest.memory, &gpas, &[]);
    assert_eq!(
        proofs.taken().map(|taken| taken.note.gpa),
        Some(guest.note_gpa)
    );
    assert_eq!(proofs.taken().map(Candidate::proof), Some(Proof::Pointer));
}
