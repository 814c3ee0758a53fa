//! Which function an address belongs to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use goblin::elf::program_header::PT_LOAD;
use goblin::elf::section_header::SHF_EXECINSTR;
use goblin::elf::sym::{STT_FUNC, STT_NOTYPE};
use goblin::elf::{Elf, Sym};

/// A program's functions, and its bytes where they are known.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// First address and name, by address.
    functions: Vec<(u64, String)>,
    /// Addresses of all that has a name, data as well.
    addresses: BTreeMap<String, u64>,
    segments: Vec<Segment>,
    /// Of a kernel: the physical address at which it is entered by PVH.
    pub(super) pvh_entry: Option<u64>,
}

#[derive(Clone, Debug)]
struct Segment {
    vaddr: u64,
    paddr: u64,
    bytes: Vec<u8>,
}

impl Symbols {
    /// Of an ELF file that has a symbol table.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let symbols = Self::parse(&bytes).with_context(|| path.display().to_string())?;
        ensure!(!symbols.functions.is_empty(), "{} has no symbols", path.display());
        Ok(symbols)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let elf = Elf::parse(bytes)?;
        let mut symbols =
            Self { segments: segments(&elf, bytes), pvh_entry: pvh_entry(&elf, bytes), ..Self::default() };
        let is_code = |symbol: &Sym| {
            let section = elf.section_headers.get(symbol.st_shndx);
            matches!(symbol.st_type(), STT_FUNC | STT_NOTYPE)
                && section.is_some_and(|section| section.sh_flags & u64::from(SHF_EXECINSTR) != 0)
        };
        for symbol in elf.syms.iter().filter(|symbol| symbol.st_shndx != 0) {
            if let Some(name) = elf.strtab.get_at(symbol.st_name) {
                symbols.add(symbol.st_value, name, is_code(&symbol));
            }
        }
        symbols.sort();
        Ok(symbols)
    }

    /// Of a kernel whose ELF file has no symbol table, and what it said of itself in `/proc/kallsyms`, without its
    /// modules.
    pub fn of_kernel(vmlinux: &[u8], kallsyms: &str) -> Result<Self> {
        let own: String =
            kallsyms.lines().filter(|line| !line.contains('[')).flat_map(|line| [line, "\n"]).collect();
        let elf = Elf::parse(vmlinux)?;
        let pvh_entry = pvh_entry(&elf, vmlinux);
        Ok(Self { segments: segments(&elf, vmlinux), pvh_entry, ..Self::of_kallsyms(&own) })
    }

    /// Of a kernel and its modules, from `/proc/kallsyms`: address, type, name, and `[module]`.
    #[must_use]
    pub fn of_kallsyms(text: &str) -> Self {
        let mut symbols = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            let module = words.next().map(|module| format!(" {module}")).unwrap_or_default();
            symbols.add(address, &format!("{name}{module}"), matches!(kind, "t" | "T" | "w" | "W"));
        }
        symbols.sort();
        symbols
    }

    fn add(&mut self, address: u64, name: &str, code: bool) {
        // Padding before functions; labels of the assembler.
        if name.is_empty() || name.starts_with("__pfx_") || name.starts_with(".L") {
            return;
        }
        if code {
            self.functions.push((address, format!("{:#}", rustc_demangle::demangle(name))));
        }
        self.addresses.entry(name.to_owned()).or_insert(address);
    }

    fn sort(&mut self) {
        self.functions.sort();
        self.functions.dedup_by_key(|(address, _)| *address);
    }

    /// The function that begins at or before `address`.
    #[must_use]
    pub fn function(&self, address: u64) -> Option<&str> {
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        Some(&self.functions[after.checked_sub(1)?].1)
    }

    /// The function that begins at `address`, if one does.
    #[must_use]
    pub fn starts(&self, address: u64) -> Option<&str> {
        let at = self.functions.binary_search_by_key(&address, |(start, _)| *start).ok()?;
        Some(&self.functions[at].1)
    }

    /// From the function of that name, as people write it, to the next function.
    #[must_use]
    pub fn range(&self, name: &str) -> Option<(u64, u64)> {
        let at = self.functions.iter().position(|(_, function)| function == name)?;
        Some((self.functions[at].0, self.functions.get(at + 1)?.0))
    }

    /// The address of a symbol, as the linker knows it.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied()
    }

    /// What the linker calls functions of these names, in their order.
    pub fn linked_names<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut linked: BTreeMap<String, Vec<&String>> = BTreeMap::new();
        for name in self.addresses.keys() {
            linked.entry(format!("{:#}", rustc_demangle::demangle(name))).or_default().push(name);
        }
        names.into_iter().flat_map(|name| linked.get(name).into_iter().flatten()).copied().cloned().collect()
    }

    /// The program's bytes at a virtual address, up to the end of their segment.
    #[must_use]
    pub fn bytes(&self, vaddr: u64) -> Option<&[u8]> {
        self.segments.iter().find_map(|segment| {
            let offset = usize::try_from(vaddr.checked_sub(segment.vaddr)?).ok()?;
            segment.bytes.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    /// The virtual address that a physical one is linked to.
    #[must_use]
    pub fn linked(&self, paddr: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let offset = paddr.checked_sub(segment.paddr)?;
            (offset < segment.bytes.len() as u64).then(|| segment.vaddr + offset)
        })
    }

    /// The physical address that a virtual one is linked to.
    #[must_use]
    pub fn physical(&self, vaddr: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let offset = vaddr.checked_sub(segment.vaddr)?;
            (offset < segment.bytes.len() as u64).then(|| segment.paddr + offset)
        })
    }
}

fn segments(elf: &Elf<'_>, bytes: &[u8]) -> Vec<Segment> {
    let loaded = elf.program_headers.iter().filter(|header| header.p_type == PT_LOAD);
    loaded
        .filter_map(|header| {
            let bytes = bytes.get(header.file_range())?.to_vec();
            Some(Segment { vaddr: header.p_vaddr, paddr: header.p_paddr, bytes })
        })
        .collect()
}

/// What the note of that kind says (`XEN_ELFNOTE_PHYS32_ENTRY`; Xen, `xen/include/public/elfnote.h`).
fn pvh_entry(elf: &Elf<'_>, bytes: &[u8]) -> Option<u64> {
    const XEN_PHYS32_ENTRY: u32 = 18;
    let mut notes = elf.iter_note_headers(bytes)?.map_while(Result::ok);
    let note = notes.find(|note| note.name == "Xen" && note.n_type == XEN_PHYS32_ENTRY)?;
    let word = note.desc.first_chunk().map(|word| u32::from_le_bytes(*word));
    word.map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n\
        ffffffff81000000 T startup_64\nffffffff81000100 t helper\nffffffff82000000 D data\n\
        ffffffffc0001000 t vmrun_it\t[kvm_amd]\n";

    #[test]
    fn addresses_become_names() {
        let symbols = Symbols::of_kallsyms(KALLSYMS);
        assert_eq!(symbols.function(0xffff_ffff_8100_0042), Some("_text"));
        assert_eq!(symbols.function(0xffff_ffff_8100_0100), Some("helper"));
        assert_eq!(symbols.function(0xffff_ffff_c000_1fff), Some("vmrun_it [kvm_amd]"));
        assert_eq!(symbols.function(0x1000), None);
        assert_eq!(symbols.address("data"), Some(0xffff_ffff_8200_0000));
        assert_eq!(symbols.range("helper"), Some((0xffff_ffff_8100_0100, 0xffff_ffff_c000_1000)));
        let own = Symbols::of_kernel(&fs::read("/proc/self/exe").unwrap(), KALLSYMS).unwrap();
        assert_eq!(own.function(0xffff_ffff_c000_1fff), Some("helper"));
    }

    #[test]
    fn of_this_program() {
        let this = Symbols::of(Path::new("/proc/self/exe")).unwrap();
        let name = "xtask::profile::symbols::tests::of_this_program";
        let (start, end) = this.range(name).expect("it is in the symbol table");
        assert_eq!(this.function(end - 1), Some(name));
        assert!(this.bytes(start).is_some());
        let linked = this.linked_names(["nowhere::at_all", name]);
        assert_eq!(linked.iter().filter_map(|name| this.address(name)).collect::<Vec<_>>(), [start]);
    }
}
