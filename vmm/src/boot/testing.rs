//! Small kernels, made in memory for tests.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use super::{Input, Request};
use crate::config::{Kaslr, Protocol};
use crate::memory::layout::RamLayout;

/// 2 MiB: what 64-bit kernels are aligned to.
pub const ALIGN: u64 = 2 << 20;
/// Where test kernels are linked.
pub const LINKED: u64 = 16 << 20;
/// How much memory a test `bzImage` wants.
pub const INIT_SIZE: u32 = 4 << 20;

/// An open, anonymous file with these contents.
pub fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// A request for a kernel with these contents in 64 MiB of RAM, with what is usual.
pub fn request(kernel: &[u8]) -> Request<'static> {
    Request {
        kernel: Some(Input { file: file(kernel), name: "vmlinuz" }),
        initrd: None,
        firmware: None,
        modules: Vec::new(),
        fw_cfg: Vec::new(),
        cmdline: "console=ttyS0",
        protocol: Protocol::Auto,
        unpack: true,
        kaslr: Kaslr::Seed(1),
        ram: RamLayout::new(64 << 20),
        rsdp: Some(0xe_0000),
        unpack_cache: None,
    }
}

/// Parts of an ELF file.
#[derive(Clone, Debug)]
pub struct ElfFile {
    pub is_64bit: bool,
    pub entry: u64,
    /// Address, contents, length in memory.
    pub segments: Vec<(u64, Vec<u8>, u64)>,
    pub notes: Vec<u8>,
}

impl ElfFile {
    /// One segment at `addr`, entered at its start.
    pub fn new(addr: u64, contents: Vec<u8>) -> Self {
        let len = contents.len() as u64;
        Self { is_64bit: true, entry: addr, segments: vec![(addr, contents, len)], notes: Vec::new() }
    }

    /// Adds a note of a given name, type and descriptor.
    pub fn with_note(mut self, name: &str, kind: u32, desc: &[u8]) -> Self {
        let words = [name.len() as u32 + 1, desc.len() as u32, kind];
        self.notes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        for part in [[name.as_bytes(), b"\0"].concat(), desc.to_vec()] {
            self.notes.extend_from_slice(&part);
            self.notes.resize(self.notes.len().next_multiple_of(4), 0);
        }
        self
    }

    /// The file's bytes.
    pub fn build(&self) -> Vec<u8> {
        let word = if self.is_64bit { 8 } else { 4 };
        let (header_len, ph_len) = if self.is_64bit { (64, 56) } else { (52, 32) };
        let count = self.segments.len() + usize::from(!self.notes.is_empty());
        let mut out = b"\x7fELF".to_vec();
        out.extend([if self.is_64bit { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let put = |out: &mut Vec<u8>, value: u64, width: usize| {
            out.extend_from_slice(&value.to_le_bytes()[..width]);
        };
        put(&mut out, 2, 2);
        put(&mut out, if self.is_64bit { 62 } else { 3 }, 2);
        put(&mut out, 1, 4);
        put(&mut out, self.entry, word);
        put(&mut out, header_len, word);
        put(&mut out, 0, word);
        // Flags (two halves), sizes and counts.
        for value in [0, 0, header_len, ph_len, count as u64, 0, 0, 0] {
            put(&mut out, value, 2);
        }
        let mut offset = header_len + ph_len * count as u64;
        let mut body = Vec::new();
        let note = (4, 0, &self.notes, self.notes.len() as u64);
        let loads = self.segments.iter().map(|(addr, contents, mem_len)| (1, *addr, contents, *mem_len));
        for (kind, addr, contents, mem_len) in loads.chain([note]).take(count) {
            let len = contents.len() as u64;
            let fields: &[(u64, usize)] = if self.is_64bit {
                &[(kind, 4), (7, 4), (offset, 8), (addr, 8), (addr, 8), (len, 8), (mem_len, 8), (4, 8)]
            } else {
                &[(kind, 4), (offset, 4), (addr, 4), (addr, 4), (len, 4), (mem_len, 4), (7, 4), (4, 4)]
            };
            for (value, width) in fields {
                put(&mut out, *value, *width);
            }
            body.resize(body.len().next_multiple_of(8), 0);
            body.extend_from_slice(contents);
            offset += len.next_multiple_of(8);
        }
        out.extend_from_slice(&body);
        out
    }
}

/// A relocation table with its sets in the order of the file: 64-bit, inverse (where there is one), 32-bit.
pub fn table(sets: &[&[u64]]) -> Vec<u8> {
    let mut words = Vec::new();
    for set in sets {
        words.push(0);
        words.extend(set.iter().map(|addr| (*addr as u32).wrapping_add(0x8000_0000)));
    }
    words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// A `bzImage` whose payload is `contents`, packed with LZ4.
pub fn bzimage(contents: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
    for block in contents.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        payload.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        payload.extend_from_slice(&packed);
    }
    bzimage_of(&payload, contents.len() as u32)
}

/// A `bzImage` with this payload, whose trailer claims that it unpacks to `unpacked_len` bytes.
pub fn bzimage_of(payload: &[u8], unpacked_len: u32) -> Vec<u8> {
    const DECOMPRESSOR: usize = 0x400;
    let mut out = vec![0; 2 * 512 + DECOMPRESSOR];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    // What must not reach the zero page.
    put(0x100, &[0xaa; 0xf1]);
    put(0x1f1, &[1]);
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &(ALIGN as u32).to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &0x7fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &(DECOMPRESSOR as u32).to_le_bytes());
    put(0x24c, &(payload.len() as u32 + 4).to_le_bytes());
    put(0x258, &LINKED.to_le_bytes());
    put(0x260, &INIT_SIZE.to_le_bytes());
    // Code right after the header.
    put(0x26c, &[0xcc; 0x80]);
    out.extend_from_slice(payload);
    out.extend_from_slice(&unpacked_len.to_le_bytes());
    out
}

/// Contents of a `bzImage` that can be relocated: code, a gap of zeros, data; words at 0x10, 0x18, 0x20 of the code.
pub fn relocatable() -> Vec<u8> {
    let mut code: Vec<u8> = (0..0x3000u32).map(|i| (i % 251) as u8).collect();
    code.resize(0x80000, 0);
    code.extend([7; 0x100]);
    let mut contents = ElfFile::new(LINKED, code).build();
    contents.extend(table(&[&[LINKED + 0x20], &[LINKED + 0x18], &[LINKED + 0x10, LINKED + 0x40000]]));
    contents
}
