// SPDX-License-Identifier: GPL-2.0

//! What each mode has of its own.

use kvm_inspect_tool::{
    guest::SparseMemory,
    paging::{
        AddressSpace, ControlRegisters, Fault, Mode, Run, RunLimit, Translation, VirtualMemory,
    },
};

use crate::builder::{Builder, Form, FORMS, NO_EXECUTE, RAM, USER, WRITABLE};

#[test]
fn the_mode_follows_from_the_registers() {
    let mode = |cr0, cr4, efer| {
        let control = ControlRegisters {
            cr0,
            cr3: 0,
            cr4,
            efer,
        };
        Mode::of(&control)
    };
    let (paging, pse, pae, la57, lma) = (1 << 31, 1 << 4, 1 << 5, 1 << 12, 1 << 10);
    assert_eq!(mode(1, pse | pae | la57, 0), Mode::Off);
    assert_eq!(mode(paging, 0, 0), Mode::Legacy { large_pages: false });
    assert_eq!(
        mode(paging, pse | la57, 0),
        Mode::Legacy { large_pages: true }
    );
    assert_eq!(mode(paging, pse | pae | la57, 0), Mode::Pae);
    assert_eq!(mode(paging, pae, lma), Mode::FourLevel);
    assert_eq!(mode(paging, pae | la57, lma), Mode::FiveLevel);
}

#[test]
fn without_paging_an_address_is_the_physical_one() {
    let mut memory = SparseMemory::with_size(0x4000);
    memory.write(0x1ffe, &[1, 2, 3, 4]).expect("it is RAM");
    let memory = VirtualMemory::new(&memory, AddressSpace::of(&ControlRegisters::default()));
    assert_eq!(memory.read_u32(0x1ffe).expect("it is RAM"), 0x0403_0201);
    assert!(matches!(
        memory.translate(1 << 32),
        Err(Fault::NotCanonical { .. })
    ));
    assert!(matches!(
        memory.read_u32(0x4000),
        Err(Fault::OutsideRam { .. })
    ));
    let runs: Vec<Run> = memory
        .runs(0x1000..=u64::MAX, RunLimit::default())
        .flatten()
        .collect();
    let run = Run {
        gva: 0x1000,
        gpa: 0x1000,
        length: 0xffff_f000,
    };
    assert_eq!(runs, [run]);
    let in_ram: Vec<Run> = run.in_ram(&[0..0x2000, 0x5000..0x6000]).collect();
    let low = Run {
        gva: 0x1000,
        gpa: 0x1000,
        length: 0x1000,
    };
    assert_eq!(
        in_ram,
        [
            low,
            Run {
                gva: 0x5000,
                gpa: 0x5000,
                length: 0x1000
            }
        ]
    );
}

#[test]
fn a_large_page_of_32_bit_paging_has_an_address_of_40_bits() {
    let mut tables = Builder::new(Form::Legacy);
    assert!(tables.map(0xc040_0000, 0x7f_ffc0_0000, 22, 0));
    let found = tables.view().translate(0xc041_2345).expect("it is mapped");
    assert_eq!((found.gpa, found.page_size), (0x7f_ffc1_2345, 4 << 20));
    // Without CR4.PSE, the same entry is a table.
    let space = AddressSpace::new(Mode::Legacy { large_pages: false }, 0x1000);
    let view = VirtualMemory::new(&tables.memory, space);
    assert!(view.translate(0xc041_2345).is_err());
}

#[test]
fn rights_are_those_of_all_levels() {
    let mut tables = Builder::new(Form::Four);
    assert!(tables.map(0x7f00_0000_0000, 0x5000, 12, WRITABLE | USER));
    assert!(tables.map(0x7f00_0000_1000, 0x6000, 12, NO_EXECUTE));
    let access = |tables: &Builder, gva| {
        let Translation { access, .. } = tables.view().translate(gva).expect("it is mapped");
        (access.writable, access.user, access.executable)
    };
    assert_eq!(access(&tables, 0x7f00_0000_0000), (true, true, true));
    assert_eq!(access(&tables, 0x7f00_0000_1000), (false, false, false));
    // The first level takes the rights away from all.
    tables.set_entry(0x1000 + 254 * 8, 0x2000 | NO_EXECUTE | 1);
    assert_eq!(access(&tables, 0x7f00_0000_0000), (false, false, false));
}

#[test]
fn the_tables_of_user_mode_lead_to_those_of_the_kernel() {
    let control = ControlRegisters {
        cr3: 0x8000_0000_0123_5803,
        ..Builder::new(Form::Four).control()
    };
    let candidates = AddressSpace::kernel_candidates(&control);
    let roots: Vec<u64> = candidates.iter().map(AddressSpace::root).collect();
    assert_eq!(roots, [0x123_5000, 0x123_4000]);
}

#[test]
fn a_page_in_a_level_without_pages_is_refused() {
    for form in [Form::Pae, Form::Four, Form::Five] {
        let mut tables = Builder::new(form);
        let root = if form == Form::Pae { 0x1fe0 } else { 0x1000 };
        tables.set_entry(root, 0x81);
        assert!(
            matches!(tables.view().translate(0), Err(Fault::Reserved { .. })),
            "{form:?}"
        );
    }
}

#[test]
fn addresses_with_too_many_bits_are_refused() {
    for form in FORMS {
        let tables = Builder::new(form);
        let top = form.levels()[0].1;
        let fault = tables
            .view()
            .translate(1 << top)
            .expect_err("it has too many bits");
        assert!(matches!(fault, Fault::NotCanonical { .. }), "{form:?}");
    }
}

#[test]
fn a_read_crosses_pages_and_stops_at_what_is_not_mapped() {
    let mut tables = Builder::new(Form::Five);
    let last = u64::MAX - 0xfff;
    assert!(tables.map(last - 0x1000, 0x9000, 12, 0));
    assert!(tables.map(last, 0x7000, 12, 0));
    tables.memory.write(0x9fff, &[1]).expect("it is RAM");
    tables.memory.write(0x7000, &[2]).expect("it is RAM");
    let view = tables.view();
    let mut bytes = [0; 0x1001];
    view.read(last - 1, &mut bytes).expect("both are mapped");
    assert_eq!(bytes[..2], [1, 2]);
    // The address space ends here.
    assert!(view.read(last, &mut bytes).is_err());
    assert!(view.read(last - 0x1001, &mut bytes).is_err());
}

#[test]
fn what_is_not_ram_is_told() {
    let mut tables = Builder::new(Form::Four);
    assert!(tables.map(0x1000, RAM, 12, 0));
    tables.set_entry(0x1008, RAM | 1);
    let view = tables.view();
    assert_eq!(view.translate(0x1000).expect("it is mapped").gpa, RAM);
    assert!(matches!(
        view.read_u32(0x1000),
        Err(Fault::OutsideRam { .. })
    ));
    let fault = view.translate(1 << 39).expect_err("its table is not RAM");
    assert!(matches!(fault, Fault::OutsideRam { gpa: RAM, .. }));
}

#[test]
fn tables_are_read_anew_after_they_were_forgotten() {
    use std::{cell::RefCell, io, ops::Range};

    use kvm_inspect_tool::guest::GuestMemory;

    struct Changing(RefCell<SparseMemory>, Vec<Range<u64>>);

    impl GuestMemory for Changing {
        fn read(&self, gpa: u64, into: &mut [u8]) -> io::Result<()> {
            self.0.borrow().read(gpa, into)
        }

        fn ranges(&self) -> &[Range<u64>] {
            &self.1
        }
    }

    let mut tables = Builder::new(Form::Four);
    assert!(tables.map(0x1000, 0x5000, 12, 0));
    let space = AddressSpace::of(&tables.control());
    let memory = Changing(RefCell::new(tables.memory), Vec::new());
    let view = VirtualMemory::new(&memory, space);
    assert_eq!(view.translate(0x1000).expect("it is mapped").gpa, 0x5000);
    memory
        .0
        .borrow_mut()
        .write(0x1000, &[0])
        .expect("it is RAM");
    assert!(view.translate(0x1000).is_ok());
    view.forget_tables();
    assert!(view.translate(0x1000).is_err());
}
