//! qcow2 images whose bytes were changed at random: refused, or disks that work or fail like any other.

use proptest::test_runner::RngSeed;

use super::*;

/// Bytes of the disk.
const LEN: u64 = 1 << 20;

proptest! {
    // The same ones each time: what another one shows is a matter for the library, and not for who comes by it.
    #![proptest_config(ProptestConfig { cases: 96, rng_seed: RngSeed::Fixed(4), ..ProptestConfig::default() })]
    #[test]
    fn bytes_of_no_sense(
        changes in prop::collection::vec((0_usize..0x6_0000, prop_oneof![any::<u8>(), Just(0), Just(0xff)]), 0..6),
        header in prop::collection::vec((0_usize..104, any::<u8>()), 0..2),
        tables in prop::collection::vec((0_usize..6, 0_usize..32, any::<u8>()), 0..4),
        cut in prop::option::weighted(0.1, 0_usize..0x6_0000),
        readonly: bool,
    ) {
        let (dir, ram) = (tempfile::tempdir().unwrap(), Ram::new());
        let base = image(dir.path(), "base", &[7; LEN as usize]);
        let top = qcow2(dir.path(), "top.qcow2", Some(&base));
        {
            // Something in its tables.
            let mut disk = open(&spec(&top)).unwrap();
            ram.write(disk.as_mut(), 0, &[1; 4096], &[4096]).unwrap();
            ram.write(disk.as_mut(), 3 << 16, &[2; 4096], &[4096]).unwrap();
            run(disk.as_mut(), &Operation::Discard { offset: 5 << 16, len: 1 << 16 }).unwrap();
            run(disk.as_mut(), &Operation::Flush).unwrap();
        }
        let mut bytes = fs::read(&top).unwrap();
        // Anywhere; in the header, in which most matters; and at the beginnings of clusters, where tables are.
        let tables = tables.into_iter().map(|(cluster, at, byte)| ((cluster << 16) + at, byte));
        for (at, byte) in changes.into_iter().chain(header).chain(tables) {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        fs::write(&top, &bytes).unwrap();
        let Ok(mut disk) = open(&DiskConfig { readonly, ..spec(&top) }) else { return Ok(()) };
        let end = disk.geometry().size.min(LEN);
        for at in (0..end / SECTOR).step_by(64) {
            let (offset, len) = (at * SECTOR, SECTOR as usize);
            let _ = ram.read(disk.as_mut(), offset, &[len]);
            if !readonly {
                let _ = ram.write(disk.as_mut(), offset, &vec![3; len], &[len]);
            }
        }
        if !readonly && end >= 1 << 17 {
            let _ = run(disk.as_mut(), &Operation::Discard { offset: 0, len: 1 << 17 });
            let zeroes = Operation::WriteZeroes { offset: 1 << 16, len: 1 << 16, unmap: false, durable: true };
            let _ = run(disk.as_mut(), &zeroes);
        }
        let _ = run(disk.as_mut(), &Operation::Flush);
        drop(disk);
        prop_assert!(fs::read(&base).unwrap().iter().all(|&byte| byte == 7), "the base was written");
    }
}
