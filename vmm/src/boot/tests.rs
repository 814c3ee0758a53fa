//! Whole loads: small kernels, placed and looked at; and all that is refused.

use abi::layout;
use linux_loader::bootparam::boot_params;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use proptest::prelude::*;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::testing::*;
use super::*;

type Memory = GuestMemoryMmap<()>;

/// Checks that writes are in RAM and apart, and places them.
fn place(state: &BootState, ram: RamLayout) -> Memory {
    let mut ranges: Vec<_> = state.writes.iter().map(|w| (w.addr, w.addr + w.len())).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|two| two[0].1 <= two[1].0), "writes overlap: {ranges:x?}");
    let regions: Vec<_> = ram.regions().map(|r| (GuestAddress(r.start), r.len as usize)).collect();
    let memory = Memory::from_ranges(&regions).unwrap();
    for write in &state.writes {
        let slice = memory.get_slice(GuestAddress(write.addr), write.len() as usize).unwrap();
        write.place(&slice).unwrap();
    }
    memory
}

fn read<const N: usize>(memory: &Memory, addr: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
    bytes
}

fn zero_page(memory: &Memory) -> boot_params {
    let mut params = boot_params::default();
    params.as_mut_slice().copy_from_slice(&read::<4096>(memory, layout::ZERO_PAGE.start));
    params
}

/// Translates an address by the tables at `cr3`, as a processor would.
fn translate(memory: &Memory, cr3: u64, addr: u64) -> Option<u64> {
    let entry = |table: u64, shift: u32| {
        let slot = u64::from_le_bytes(read(memory, table + (addr >> shift & 511) * 8));
        (slot & 1 == 1).then_some(slot & 0x000f_ffff_ffff_f000)
    };
    let directory = entry(entry(cr3, 39)?, 30)?;
    Some(entry(directory, 21)? | addr & (ALIGN - 1))
}

#[test]
fn linux64_gets_its_zero_page_and_page_tables() {
    let initrd = vec![0x55; 10_000];
    let kernel = bzimage(&relocatable());
    let mut asked = request(&kernel);
    asked.initrd = Some(Input { file: file(&initrd), name: "initrd" });
    let state = load(&asked).unwrap();
    let memory = place(&state, asked.ram);
    let BootCpu::Long { rip, cr3, rsi, .. } = state.cpu else { panic!("{:?}", state.cpu) };
    assert_eq!((rip, rsi), (LINKED, layout::ZERO_PAGE.start));

    let params = zero_page(&memory);
    let hdr = params.hdr;
    assert_eq!((hdr.type_of_loader, { hdr.cmd_line_ptr }), (0xff, CMDLINE.start as u32));
    assert_eq!(hdr.loadflags & 2, 2, "randomised, and says so");
    assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
    assert_eq!({ hdr.kernel_info_offset }, 0, "0x26c is past the header that the kernel has");
    assert!(read::<0x70>(&memory, layout::ZERO_PAGE.start).iter().all(|&byte| byte == 0));
    assert!(read::<0x24>(&memory, layout::ZERO_PAGE.start + 0x26c).iter().all(|&byte| byte == 0));
    assert_eq!(read::<14>(&memory, CMDLINE.start), *b"console=ttyS0\0");
    let map = asked.ram.e820();
    assert_eq!(usize::from(params.e820_entries), map.len());
    for (told, real) in params.e820_table.iter().zip(&map) {
        assert_eq!(
            ({ told.addr }, { told.size }, { told.r#type }),
            (real.range.start, real.range.len, real.kind as u32)
        );
    }

    let (at, len) = (u64::from(hdr.ramdisk_image), hdr.ramdisk_size as usize);
    assert_eq!((at % 4096, len), (0, initrd.len()));
    assert_eq!(at, (64 << 20) - 12288, "as high as it fits");
    assert_eq!(read::<10_000>(&memory, at).to_vec(), initrd);

    assert_eq!(u64::from_le_bytes(read(&memory, layout::BOOT_GDT.start + 0x10)), 0x00af_9b00_0000_ffff);
    assert_eq!(u64::from_le_bytes(read(&memory, layout::BOOT_GDT.start + 0x18)), 0x00cf_9300_0000_ffff);
    for addr in [0, CMDLINE.start, LINKED, LINKED + u64::from(INIT_SIZE) - 1] {
        assert_eq!(translate(&memory, cr3, addr), Some(addr));
    }
    assert_eq!(translate(&memory, cr3, 1 << 30), None);
}

#[test]
fn an_unpacked_kernel_is_relocated() {
    let kernel = bzimage(&relocatable());
    let load = |kaslr| {
        let mut asked = request(&kernel);
        asked.kaslr = kaslr;
        let state = load(&asked).unwrap();
        (place(&state, asked.ram), state.kernel.unwrap())
    };
    let (plain, report) = load(Kaslr::Off);
    assert_eq!(report.kaslr_offset, None);
    assert_eq!(zero_page(&plain).hdr.loadflags & 2, 0);
    let (moved, report) = load(Kaslr::Seed(5));
    let offset = report.kaslr_offset.unwrap();
    assert!(offset.is_multiple_of(ALIGN) && offset + LINKED + u64::from(INIT_SIZE) <= 1 << 30, "{offset:#x}");
    assert_eq!(load(Kaslr::Seed(5)).1, report, "a seed repeats");
    assert_ne!(load(Kaslr::Seed(6)).1, report);

    const LEN: usize = 0x80100;
    let mut expected = read::<LEN>(&plain, LINKED);
    assert_eq!(expected[0x20..0x24], [0x20, 0x21, 0x22, 0x23]);
    assert_eq!(expected[LEN - 1], 7, "what follows the gap");
    let mut change = |at: usize, by: u64, width: usize| {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&expected[at..at + width]);
        let sum = u64::from_le_bytes(word).wrapping_add(by).to_le_bytes();
        expected[at..at + width].copy_from_slice(&sum[..width]);
    };
    change(0x20, offset, 8);
    change(0x18, offset.wrapping_neg(), 4);
    change(0x10, offset, 4);
    change(0x40000, offset, 4);
    assert!(read::<LEN>(&moved, LINKED) == expected);
}

#[test]
fn kaslr_needs_relocations_and_consent() {
    let without_table = bzimage(&ElfFile::new(LINKED, vec![1; 100]).build());
    let state = load(&request(&without_table)).unwrap();
    assert_eq!(state.kernel.unwrap().kaslr_offset, None);
    let kernel = bzimage(&relocatable());
    for (cmdline, randomised) in [("quiet nokaslr", false), ("quiet xnokaslr", true)] {
        let mut asked = request(&kernel);
        asked.cmdline = cmdline;
        assert_eq!(load(&asked).unwrap().kernel.unwrap().kaslr_offset.is_some(), randomised, "{cmdline}");
    }
}

#[test]
fn a_bzimage_as_it_is_enters_its_own_decompressor() {
    let kernel = bzimage(&relocatable());
    let mut asked = request(&kernel);
    asked.unpack = false;
    let state = load(&asked).unwrap();
    assert!(matches!(state.cpu, BootCpu::Long { rip, .. } if rip == LINKED + 0x200));
    assert_eq!(state.kernel.as_ref().unwrap().unpacked, None);
    let memory = place(&state, asked.ram);
    assert_eq!(read::<16>(&memory, LINKED + 0x400), kernel[0x800..0x810]);
}

#[test]
fn a_compression_that_is_not_known_is_left_to_the_kernel() {
    let state = load(&request(&bzimage_of(b"BZh91AY&SY", 5))).unwrap();
    assert_eq!(state.kernel.unwrap().unpacked, None);
}

#[test]
fn a_kernel_goes_low_where_its_own_place_is_not_in_ram() {
    let kernel = bzimage(&relocatable());
    let mut asked = request(&kernel);
    asked.ram = RamLayout::new(8 << 20);
    let state = load(&asked).unwrap();
    assert!(matches!(state.cpu, BootCpu::Long { rip, .. } if rip == ALIGN));
    let memory = place(&state, asked.ram);
    assert_eq!(read::<4>(&memory, ALIGN + 4), [4, 5, 6, 7]);
}

#[test]
fn pvh_gets_its_start_info() {
    let kernel = ElfFile::new(1 << 20, vec![0xf4; 64]).with_note("Xen", 18, &0x10_0010u32.to_le_bytes());
    for is_64bit in [true, false] {
        let kernel = ElfFile { is_64bit, ..kernel.clone() }.build();
        let mut asked = request(&kernel);
        asked.ram = RamLayout::new(5 << 30);
        asked.initrd = Some(Input { file: file(&[1; 5000]), name: "initrd" });
        let state = load(&asked).unwrap();
        let start = layout::PVH_START_INFO.start;
        assert_eq!(state.cpu, BootCpu::Protected { eip: 0x10_0010, ebx: start as u32 });
        let memory = place(&state, asked.ram);
        let info: hvm_start_info = memory.read_obj(GuestAddress(start)).unwrap();
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
        assert_eq!((info.rsdp_paddr, info.cmdline_paddr), (0xe_0000, CMDLINE.start));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), ((3 << 30) - 8192, 5000));
        assert_eq!(read::<5000>(&memory, module.paddr), [1; 5000]);
        let map = asked.ram.e820();
        assert_eq!(info.memmap_entries as usize, map.len());
        for (i, real) in map.iter().enumerate() {
            let at = info.memmap_paddr + (i * size_of::<hvm_memmap_table_entry>()) as u64;
            let told: hvm_memmap_table_entry = memory.read_obj(GuestAddress(at)).unwrap();
            assert_eq!(
                (told.addr, told.size, told.type_),
                (real.range.start, real.range.len, real.kind as u32)
            );
        }
    }
}

#[test]
fn an_elf_kernel_is_entered_by_what_it_has() {
    let entered = |file: &ElfFile, protocol| {
        let mut asked = request(&file.build());
        asked.protocol = protocol;
        load(&asked).map(|state| state.kernel.unwrap().protocol).map_err(|error| error.to_string())
    };
    let plain = ElfFile::new(1 << 20, vec![0xf4; 64]);
    let pvh = plain.clone().with_note("Xen", 18, &0x10_0010u32.to_le_bytes());
    let linux = pvh.clone().with_note("Linux", 0x100, &[0; 4]);
    assert_eq!(entered(&plain, Protocol::Auto), Ok(Protocol::Linux64));
    assert_eq!(entered(&pvh, Protocol::Auto), Ok(Protocol::Pvh));
    assert_eq!(entered(&linux, Protocol::Auto), Ok(Protocol::Linux64));
    assert_eq!(entered(&linux, Protocol::Pvh), Ok(Protocol::Pvh));
    assert_eq!(entered(&pvh, Protocol::Linux64), Ok(Protocol::Linux64));
    assert!(entered(&plain, Protocol::Pvh).unwrap_err().contains("no PVH entry"));
    let small = ElfFile { is_64bit: false, ..plain };
    assert!(entered(&small, Protocol::Auto).unwrap_err().contains("no 64-bit entry (it is ELF32)"));
}

#[test]
fn zeros_after_a_segment_are_not_written() {
    let mut kernel = ElfFile::new(1 << 20, vec![0xf4; 64]);
    kernel.segments[0].2 = 8 << 20;
    let asked = request(&kernel.build());
    assert_eq!(load(&asked).unwrap().loaded_bytes, 64);
}

#[test]
fn a_firmware_starts_at_the_reset_vector() {
    let mut asked = request(&[]);
    asked.kernel = None;
    asked.firmware = Some(Input { file: file(&[0x90; 65536]), name: "rom" });
    let state = load(&asked).unwrap();
    assert_eq!((state.cpu, state.firmware.unwrap().rom.len), (BootCpu::Reset, 65536));
    for size in [0, 4095, (16 << 20) + 4096] {
        asked.firmware = Some(Input { file: file(&vec![0; size]), name: "rom" });
        let error = load(&asked).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "--firmware rom: has {size} bytes: a ROM image has a multiple of 4096, from 4 KiB to 16 MiB"
            )
        );
    }
}

/// What is refused, and a part of how.
#[test]
fn what_cannot_be_booted_is_named_on_one_line() {
    let bent = |at: usize, bytes: &[u8]| {
        let mut kernel = bzimage(&relocatable());
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
        kernel
    };
    let cut = |len: usize| bzimage(&relocatable())[..len].to_vec();
    let at = |addr: u64, len: u64| {
        let mut kernel = ElfFile::new(addr, vec![0xf4; 64]);
        kernel.segments[0].2 = len;
        kernel.build()
    };
    let lost = ElfFile { entry: 5 << 20, ..ElfFile::new(1 << 20, vec![0xf4; 64]) };
    let elsewhere = bzimage(&ElfFile::new(1 << 20, vec![1; 100]).build());
    let table = [ElfFile::new(LINKED, vec![1; 100]).build(), table(&[&[], &[5 << 20]])].concat();
    let bomb = {
        let mut packed = vec![0x1f, 0x8b];
        packed.extend_from_slice(&include_bytes!("fixtures/plain.gz")[2..]);
        bzimage_of(&packed, 1000)
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "is neither a bzImage"),
        (b"#!/bin/sh\nexit 0\n".to_vec(), "is neither a bzImage"),
        (vec![0; 0x1000], "is neither a bzImage"),
        (cut(0x210), "is cut short: the setup header"),
        (cut(0x3f0), "is cut short: the real-mode code"),
        (cut(0x810), "is cut short: the packed kernel"),
        (bent(0x201, &[0x10]), "its setup header is too short"),
        (bent(0x1fe, &[0]), "boot_flag (0x1fe) is 0xaa00"),
        (bent(0x206, &[0x0b]), "older than 2.12"),
        (bent(0x236, &[0]), "XLF_KERNEL_64 is not set"),
        (bent(0x211, &[0]), "loadflags (0x211) is 0x0: a zImage"),
        (bent(0x230, &[1]), "kernel_alignment (0x230) is 0x200001"),
        (bent(0x260, &[0, 0, 0, 0]), "init_size (0x260) is 0x0"),
        (bent(0x260, &[0, 0, 0, 0xff]), "init_size (0x260) is 0xff000000"),
        (bent(0x260, &[0, 0, 0, 4]), "needs at least 66 MiB of RAM below 3 GiB, the VM has 64"),
        (bent(0x258, &[1]), "pref_address (0x258) is 0x1000001"),
        (bent(0x24c, &[4, 0, 0, 0]), "payload_length (0x24c) is 0x4"),
        (bent(0x24c, &[0xff; 4]), "is cut short: the packed kernel"),
        (bent(0x800, &[9]), "its payload starts with [09, 21, 4c, 18]"),
        (bzimage_of(&[0x1f, 0x8b, 8, 0], 1000), "its gzip payload is damaged"),
        (bomb, "does not unpack to the 1000 bytes"),
        (bzimage_of(&[0x1f, 0x8b, 8, 0], INIT_SIZE + 1), "the size at the end of the payload is 0x400001"),
        (bzimage(b"no kernel at all"), "is neither a bzImage"),
        (elsewhere, "the unpacked kernel is not where it says"),
        (bzimage(&table), "its relocation table is unsound at word 2: outside the kernel"),
        (at(0x9_f000, 0x1000), "reaches into the BIOS area"),
        (at(0x7000, 64), "is where the boot structures go"),
        (at(60 << 20, 5 << 20), "needs at least 65 MiB of RAM below 3 GiB, the VM has 64"),
        (at(0xbfff_f000, 0x2000), "is not below 3 GiB"),
        (at(1 << 40, 64), "is not below 3 GiB"),
        (lost.build(), "the entry point 0x500000 is not in the loaded image"),
    ];
    for (kernel, expected) in cases {
        let error = load(&request(&kernel)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
        assert!(error.starts_with("--kernel vmlinuz: ") && !error.contains('\n'), "{error:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let kernel = bzimage(&relocatable());
    let check = |change: &dyn Fn(&mut Request<'_>), expected: &str| {
        let mut asked = request(&kernel);
        change(&mut asked);
        let error = load(&asked).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    };
    let long = "x".repeat(2048);
    let input = |size: usize| Some(Input { file: file(&vec![1; size]), name: "other" });
    check(&|asked| asked.kernel = None, "nothing to boot");
    check(&|asked| (asked.kernel, asked.initrd) = (None, input(1)), "an initrd needs a kernel");
    check(&|asked| asked.protocol = Protocol::Multiboot2, "entered by multiboot2 only through a firmware");
    check(&|asked| asked.cmdline = "a\0b", "NUL byte at 1");
    check(&|asked| asked.initrd = input(0), "--initrd other: is empty");
    check(&|asked| asked.initrd = input(50 << 20), "52428800 bytes do not fit into RAM");
    check(
        &|asked| asked.ram = RamLayout::new(4 << 20),
        "needs at least 6 MiB of RAM below 3 GiB, the VM has 4",
    );
    check(&|asked| asked.protocol = Protocol::Pvh, "has no PVH entry");
    check(&|asked| (asked.protocol, asked.unpack) = (Protocol::Pvh, false), "inside its compressed payload");
    let folder = Arc::new(File::open("/").unwrap());
    check(
        &|asked| asked.kernel = Some(Input { file: folder.clone(), name: "/" }),
        "--kernel /: is not a regular file",
    );
    let mut asked = request(&kernel);
    asked.cmdline = &long;
    let error = load(&asked).unwrap_err().to_string();
    assert_eq!(
        error,
        "--cmdline: the command line has 2048 bytes, kernel vmlinuz takes at most 2047: shorten it"
    );
    asked.cmdline = &long[1..];
    assert!(load(&asked).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// However a kernel is damaged, it is refused or its writes are apart and in RAM.
    #[test]
    fn damaged_kernels_do_no_harm(
        packed in any::<bool>(),
        unpack in any::<bool>(),
        cut in 0.0..1.5,
        bends in prop::collection::vec((0..0x280usize, any::<u8>()), 0..6),
    ) {
        let note = 0x10_0010u32.to_le_bytes();
        let kernel = ElfFile::new(1 << 20, vec![0xf4; 64]).with_note("Xen", 18, &note).build();
        let mut kernel = if packed { bzimage(&relocatable()) } else { kernel };
        for (at, byte) in bends {
            let at = if packed { 0x1f0 + at % 0x80 } else { at % kernel.len() };
            kernel[at] = byte;
        }
        kernel.truncate((kernel.len() as f64 * cut) as usize);
        let mut asked = request(&kernel);
        asked.unpack = unpack;
        if let Ok(state) = load(&asked) {
            place(&state, asked.ram);
        }
    }
}
