// SPDX-License-Identifier: GPL-2.0

//! The rings of the kernel's log.

use super::{
    super::{Kernel, VmcoreInfo},
    Caller, LogError, Record,
};
use crate::paging::{Fault, VirtualMemory};

/// `LOG_BUF_LEN_MAX` is 2 GiB; a descriptor is for 32 bytes and more.
const MAX_BITS: u32 = 31;
/// The state of a descriptor is in the highest two bits, its ID in the others.
const ID: u64 = u64::MAX >> 2;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const REUSABLE: u64 = 3;
/// Both ends of a block that is no block, but an empty line (`EMPTY_LINE_LPOS`, before `NO_LPOS`).
const EMPTY_LINE: u64 = 3;
/// A block begins with the ID of its descriptor.
const ID_SIZE: u64 = 8;

/// The offsets of members, in bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// `sizeof(struct prb_desc)`
    descriptor_size: u64,
    state: u64,
    begin: u64,
    next: u64,
    /// `sizeof(struct printk_info)`
    info_size: u64,
    sequence: u64,
    timestamp: u64,
    text_length: u64,
    caller: u64,
}

/// The rings, as they were when they were found.
#[derive(Debug)]
pub(super) struct Ring<'a> {
    memory: &'a VirtualMemory<'a>,
    layout: Layout,
    descriptors: u64,
    infos: u64,
    text: u64,
    /// The number of descriptors is two to the power of it.
    count_bits: u32,
    /// The size of the text is two to the power of it, in bytes.
    size_bits: u32,
    /// The ID of the oldest record.
    tail: u64,
    /// How many records there are.
    length: u64,
}

/// What a descriptor holds.
#[derive(Debug)]
pub(super) enum Read {
    /// A record.
    Record(Record),
    /// Nothing, or nothing any more.
    Free,
    /// A record that is not complete, or another one than before.
    Incomplete,
}

/// Reads the keys of VMCOREINFO.
struct Keys<'a>(&'a VmcoreInfo);

impl Keys<'_> {
    fn offset(&self, member: &str) -> Result<u64, LogError> {
        let offset = self.0.offset(member).filter(|offset| *offset < 4096);
        offset.ok_or_else(|| LogError::Missing(format!("OFFSET({member})")))
    }

    fn size(&self, name: &str) -> Result<u64, LogError> {
        let size = self.0.size(name).filter(|size| *size < 4096);
        size.ok_or_else(|| LogError::Missing(format!("SIZE({name})")))
    }
}

impl<'a> Ring<'a> {
    pub(super) fn find(kernel: &'a Kernel<'_>) -> Result<Self, LogError> {
        let (memory, info) = (kernel.memory(), kernel.info());
        let keys = Keys(info);
        let variable = info.symbol("prb");
        let variable = variable.ok_or_else(|| LogError::Missing("SYMBOL(prb)".to_owned()))?;
        let ring = memory.read_u64(variable)?;
        // atomic_long_t is a struct, too, but nothing else than its number.
        let descriptors = ring.wrapping_add(keys.offset("printk_ringbuffer.desc_ring")?);
        let text = ring.wrapping_add(keys.offset("printk_ringbuffer.text_data_ring")?);
        let at = |base: u64, member| Ok::<_, LogError>(base.wrapping_add(keys.offset(member)?));
        let number = |base, member| Ok::<_, LogError>(memory.read_u64(at(base, member)?)?);
        let count_bits = memory.read_u32(at(descriptors, "prb_desc_ring.count_bits")?)?;
        let size_bits = memory.read_u32(at(text, "prb_data_ring.size_bits")?)?;
        if count_bits > MAX_BITS || !(4..=MAX_BITS).contains(&size_bits) {
            return Err(LogError::Invalid("its rings are too large"));
        }
        let block = keys.offset("prb_desc.text_blk_lpos")?;
        let head = number(descriptors, "prb_desc_ring.head_id")?;
        let tail = number(descriptors, "prb_desc_ring.tail_id")?;
        let length = (head.wrapping_sub(tail) & ID) + 1;
        if length > 1 << count_bits {
            return Err(LogError::Invalid("it has more records than descriptors"));
        }
        let layout = Layout {
            descriptor_size: keys.size("prb_desc")?,
            state: keys.offset("prb_desc.state_var")?,
            begin: block + keys.offset("prb_data_blk_lpos.begin")?,
            next: block + keys.offset("prb_data_blk_lpos.next")?,
            info_size: keys.size("printk_info")?,
            sequence: keys.offset("printk_info.seq")?,
            timestamp: keys.offset("printk_info.ts_nsec")?,
            text_length: keys.offset("printk_info.text_len")?,
            caller: keys.offset("printk_info.caller_id")?,
        };
        Ok(Self {
            memory,
            layout,
            descriptors: number(descriptors, "prb_desc_ring.descs")?,
            infos: number(descriptors, "prb_desc_ring.infos")?,
            text: number(text, "prb_data_ring.data")?,
            count_bits,
            size_bits,
            tail: tail & ID,
            length,
        })
    }

    /// Returns how many records there are, whatever their state.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Returns how many bytes of text there can be.
    pub(super) fn text_size(&self) -> u64 {
        1 << self.size_bits
    }

    /// Reads a record; number 0 is the oldest one (`prb_read`).
    pub(super) fn read(&self, number: u64) -> Result<Read, Fault> {
        let id = self.tail.wrapping_add(number) & ID;
        let index = id % (1 << self.count_bits);
        let Layout {
            descriptor_size,
            info_size,
            ..
        } = self.layout;
        let descriptor = self.descriptors.wrapping_add(index * descriptor_size);
        let info = self.infos.wrapping_add(index * info_size);
        let state = self.number(descriptor, self.layout.state)?;
        match (state & ID == id, state >> 62) {
            (true, COMMITTED | FINALIZED) => (),
            (true, REUSABLE) => return Ok(Read::Free),
            _ => return Ok(Read::Incomplete),
        }
        let record = self.record(id, descriptor, info)?;
        let is_same = self.number(descriptor, self.layout.state)? == state;
        let record = record.filter(|_| is_same);
        Ok(record.map_or(Read::Incomplete, Read::Record))
    }

    fn record(&self, id: u64, descriptor: u64, info: u64) -> Result<Option<Record>, Fault> {
        let begin = self.number(descriptor, self.layout.begin)?;
        let next = self.number(descriptor, self.layout.next)?;
        // The length has 16 bits; the facility, and the flags with the level, follow.
        let word = self
            .memory
            .read_u32(info.wrapping_add(self.layout.text_length))?;
        let [low, high, facility, flags] = word.to_le_bytes();
        let length = u16::from_le_bytes([low, high]);
        let Some(text) = self.text(id, begin, next, length)? else {
            return Ok(None);
        };
        let caller = self
            .memory
            .read_u32(info.wrapping_add(self.layout.caller))?;
        Ok(Some(Record {
            sequence: self.number(info, self.layout.sequence)?,
            timestamp: self.number(info, self.layout.timestamp)?,
            level: flags >> 5,
            facility,
            caller: Caller::new(caller),
            text,
        }))
    }

    /// Reads the text of a record (`get_data`). Positions count on when the ring starts anew.
    fn text(&self, id: u64, begin: u64, next: u64, length: u16) -> Result<Option<Vec<u8>>, Fault> {
        if (begin, next) == (EMPTY_LINE, EMPTY_LINE) {
            return Ok(Some(Vec::new()));
        }
        let ring_size = self.text_size();
        let size = next.wrapping_sub(begin);
        if begin % ID_SIZE != 0 || next % ID_SIZE != 0 || size <= ID_SIZE || size > ring_size {
            return Ok(None);
        }
        // A block that would go beyond the end is at the beginning instead; `next` is its end. It
        // may end just where the ring does.
        let start = begin % ring_size;
        let (start, size) = if start + size <= ring_size {
            (start, size)
        } else {
            (0, next % ring_size)
        };
        if size <= ID_SIZE {
            return Ok(None);
        }
        let block = self.text.wrapping_add(start);
        if self.memory.read_u64(block)? != id {
            return Ok(None);
        }
        let length = u64::from(length).min(size - ID_SIZE);
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        self.memory.read(block.wrapping_add(ID_SIZE), &mut text)?;
        Ok(Some(text))
    }

    fn number(&self, base: u64, offset: u64) -> Result<u64, Fault> {
        self.memory.read_u64(base.wrapping_add(offset))
    }
}
