//! The tables as files of fw_cfg, and the script by which a firmware places them, points them at each other and
//! closes their checksums (QEMU, `hw/acpi/bios-linker-loader.c`, the format of `etc/table-loader`).

use abi::fw_cfg::name;
use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use zerocopy::{Immutable, IntoBytes, little_endian as le};

use super::{Image, OEM_ID, Spec};

/// Name of the file of the RSDP.
const RSDP_FILE: &str = "etc/acpi/rsdp";
/// Name of the file of the other tables.
const TABLES_FILE: &str = "etc/acpi/tables";
/// Name of the file of the script.
const LOADER_FILE: &str = "etc/table-loader";

/// What a firmware gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The RSDP.
    pub rsdp: Vec<u8>,
    /// The other tables; pointers in it are offsets.
    pub tables: Vec<u8>,
    /// The script.
    pub loader: Vec<u8>,
}

impl Linked {
    /// The files by their names.
    #[must_use]
    pub fn files(self) -> [(&'static str, Vec<u8>); 3] {
        [(RSDP_FILE, self.rsdp), (TABLES_FILE, self.tables), (LOADER_FILE, self.loader)]
    }
}

/// Length of a command, padding included.
const COMMAND_LEN: usize = 128;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// A zone of ALLOCATE: anywhere below 4 GiB.
const HIGH: u8 = 1;
/// A zone of ALLOCATE: where a guest looks for an RSDP, from 0xf_0000 to 0xf_ffff.
const FSEG: u8 = 2;

type Name = [u8; 56];

#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct Allocate {
    file: Name,
    align: le::U32,
    zone: u8,
}

/// Adds the address of `source` to a number in `dest`.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct AddPointer {
    dest: Name,
    source: Name,
    offset: le::U32,
    size: u8,
}

/// Makes the bytes of a range add up to 0, by a byte at `offset`.
#[derive(IntoBytes, Immutable)]
#[repr(C, packed)]
struct AddChecksum {
    file: Name,
    offset: le::U32,
    start: le::U32,
    len: le::U32,
}

/// Offsets in a table's standard header and in the tables that point at others (ACPI 6.5, 5.2.5.3, 5.2.6, 5.2.8, 5.2.9).
const LENGTH: usize = 4;
const CHECKSUM: usize = 9;
const HEADER_LEN: usize = 36;
const FADT_X_FIRMWARE_CTRL: usize = 132;
const FADT_X_DSDT: usize = 140;
const RSDP_CHECKSUM: usize = 8;
const RSDP_FIRST_LEN: usize = 20;
const RSDP_XSDT: usize = 24;
const RSDP_EXTENDED_CHECKSUM: usize = 32;

/// The tables for a firmware to place.
#[must_use]
pub fn link(spec: &Spec) -> Linked {
    // The image's room for an RSDP stays empty, so that no table is at offset 0 and 0 means none.
    let mut image = Image::new(0);
    let xsdt = image.tables(spec);
    let mut rsdp = Vec::with_capacity(Rsdp::len());
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    let mut script = Script(Vec::new());
    script.allocate(TABLES_FILE, 64, HIGH);
    script.allocate(RSDP_FILE, 16, FSEG);
    for &at in &image.tables {
        let mut pointers = 0;
        for offset in pointers_of(&image.bytes[at..]) {
            script.pointer(TABLES_FILE, at + offset);
            pointers += 1;
        }
        if pointers > 0 {
            let len = length(&image.bytes[at..]);
            image.bytes[at + CHECKSUM] = 0;
            script.checksum(TABLES_FILE, at + CHECKSUM, at, len);
        }
    }
    script.pointer(RSDP_FILE, RSDP_XSDT);
    for (checksum, len) in [(RSDP_CHECKSUM, RSDP_FIRST_LEN), (RSDP_EXTENDED_CHECKSUM, rsdp.len())] {
        rsdp[checksum] = 0;
        script.checksum(RSDP_FILE, checksum, 0, len);
    }
    Linked { rsdp, tables: image.bytes, loader: script.0 }
}

fn length(table: &[u8]) -> usize {
    table[LENGTH..LENGTH + 4].iter().rev().fold(0, |len, &byte| len << 8 | usize::from(byte))
}

/// Where in a table there are addresses of other tables, eight bytes each.
fn pointers_of(table: &[u8]) -> Vec<usize> {
    match &table[..4] {
        b"FACP" => {
            let is_set = |&at: &usize| table[at..at + 8].iter().any(|&byte| byte != 0);
            [FADT_X_FIRMWARE_CTRL, FADT_X_DSDT].into_iter().filter(is_set).collect()
        }
        b"XSDT" => (HEADER_LEN..length(table)).step_by(8).collect(),
        _ => Vec::new(),
    }
}

struct Script(Vec<u8>);

impl Script {
    fn allocate(&mut self, file: &str, align: u32, zone: u8) {
        self.command(ALLOCATE, &Allocate { file: name(file), align: align.into(), zone });
    }

    /// A pointer of eight bytes at `offset` of `dest`, into [`TABLES_FILE`].
    fn pointer(&mut self, dest: &str, offset: usize) {
        let (dest, source) = (name(dest), name(TABLES_FILE));
        self.command(ADD_POINTER, &AddPointer { dest, source, offset: (offset as u32).into(), size: 8 });
    }

    fn checksum(&mut self, file: &str, offset: usize, start: usize, len: usize) {
        let [offset, start, len] = [offset, start, len].map(|value| (value as u32).into());
        self.command(ADD_CHECKSUM, &AddChecksum { file: name(file), offset, start, len });
    }

    fn command(&mut self, command: u32, body: &(impl IntoBytes + Immutable)) {
        let end = self.0.len() + COMMAND_LEN;
        self.0.extend_from_slice(&command.to_le_bytes());
        self.0.extend_from_slice(body.as_bytes());
        self.0.resize(end, 0);
    }
}
