// SPDX-License-Identifier: GPL-2.0

//! Writes the kernel's log, as `kernel/printk/printk_ringbuffer.c` does.

use crate::guest::{Guest, RING};

/// What VMCOREINFO says about it: that of Linux 7.3.
pub(crate) const LAYOUT: &str = "\
OFFSET(printk_ringbuffer.desc_ring)=0
OFFSET(printk_ringbuffer.text_data_ring)=48
OFFSET(prb_desc_ring.count_bits)=0
OFFSET(prb_desc_ring.descs)=8
OFFSET(prb_desc_ring.infos)=16
OFFSET(prb_desc_ring.head_id)=24
OFFSET(prb_desc_ring.tail_id)=32
SIZE(prb_desc)=24
OFFSET(prb_desc.state_var)=0
OFFSET(prb_desc.text_blk_lpos)=8
OFFSET(prb_data_blk_lpos.begin)=0
OFFSET(prb_data_blk_lpos.next)=8
SIZE(printk_info)=112
OFFSET(printk_info.seq)=0
OFFSET(printk_info.ts_nsec)=8
OFFSET(printk_info.text_len)=16
OFFSET(printk_info.caller_id)=20
OFFSET(prb_data_ring.size_bits)=0
OFFSET(prb_data_ring.data)=8
";

pub(crate) const COUNT_BITS: u32 = 3;
pub(crate) const SIZE_BITS: u32 = 8;
const COUNT: u64 = 1 << COUNT_BITS;
const SIZE: u64 = 1 << SIZE_BITS;
const ID: u64 = u64::MAX >> 2;

pub(crate) const DESCRIPTORS: u64 = RING + 0x100;
const INFOS: u64 = RING + 0x300;
const TEXT: u64 = RING + 0x800;

/// The log of a guest that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) guest: Guest,
    head: u64,
    tail: u64,
    position: u64,
    tail_position: u64,
    next: u64,
}

impl Writer {
    /// Begins an empty log. Positions and IDs overflow soon.
    pub(crate) fn new(guest: Guest) -> Self {
        let first = (COUNT + 1).wrapping_neg() & ID;
        let mut writer = Self {
            guest,
            head: first,
            tail: first,
            position: SIZE.wrapping_neg(),
            tail_position: SIZE.wrapping_neg(),
            next: 0,
        };
        writer.set_state(first, 3);
        writer.set_block(first, 1, 1);
        let guest = &mut writer.guest;
        guest.write(RING, &COUNT_BITS.to_le_bytes());
        guest.write_u64(RING + 8, DESCRIPTORS);
        guest.write_u64(RING + 16, INFOS);
        guest.write(RING + 48, &SIZE_BITS.to_le_bytes());
        guest.write_u64(RING + 56, TEXT);
        writer.publish();
        writer
    }

    fn publish(&mut self) {
        self.guest.write_u64(RING + 24, self.head);
        self.guest.write_u64(RING + 32, self.tail);
    }

    pub(crate) fn descriptor(id: u64) -> u64 {
        DESCRIPTORS + id % COUNT * 24
    }

    pub(crate) fn set_state(&mut self, id: u64, state: u64) {
        self.guest
            .write_u64(Self::descriptor(id), id | (state << 62));
    }

    fn set_block(&mut self, id: u64, begin: u64, next: u64) {
        self.guest.write_u64(Self::descriptor(id) + 8, begin);
        self.guest.write_u64(Self::descriptor(id) + 16, next);
    }

    /// Adds a record. Returns its ID.
    pub(crate) fn push(&mut self, text: &str) -> u64 {
        let size = text.len() as u64;
        let block = (8 + size).next_multiple_of(8);
        let id = (self.head + 1) & ID;
        if (id.wrapping_sub(self.tail) & ID) == COUNT {
            self.set_state(self.tail, 3);
            self.tail = (self.tail + 1) & ID;
        }
        let begin = self.position;
        let mut next = begin.wrapping_add(block);
        let mut at = begin % SIZE;
        if at + block > SIZE {
            at = 0;
            next = next / SIZE * SIZE + block;
        }
        // The blocks that are overwritten lose their descriptors.
        let mut oldest = self.tail;
        while next.wrapping_sub(self.tail_position) > SIZE && oldest != id {
            let mut end = [0; 8];
            self.read(Self::descriptor(oldest) + 16, &mut end);
            let end = u64::from_le_bytes(end);
            self.set_state(oldest, 3);
            if end & 1 == 0 {
                self.tail_position = end;
            }
            oldest = (oldest + 1) & ID;
        }
        self.position = next;
        self.head = id;
        self.set_block(id, begin, next);
        self.guest.write(TEXT + at, &id.to_le_bytes());
        self.guest.write(TEXT + at + 8, text.as_bytes());
        let info = INFOS + id % COUNT * 112;
        let length = u16::try_from(size).expect("it is short");
        let rest = [length.to_le_bytes(), [3, 6 << 5]].concat();
        self.guest.write_u64(info, self.next);
        self.guest.write_u64(info + 8, self.next * 1_000_000);
        self.guest.write(info + 16, &rest);
        self.guest.write(info + 20, &0x8000_0002_u32.to_le_bytes());
        self.set_state(id, 2);
        self.next += 1;
        self.publish();
        id
    }

    /// Adds a record that is an empty line.
    pub(crate) fn push_empty(&mut self) {
        let position = self.position;
        let id = self.push("");
        self.position = position;
        self.set_block(id, 3, 3);
    }

    fn read(&self, gva: u64, into: &mut [u8]) {
        let kernel = self.guest.kernel();
        kernel.memory().read(gva, into).expect("it is mapped");
    }
}
