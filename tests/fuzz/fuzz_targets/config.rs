//! Configuration files: TOML, our JSON, Firecracker's JSON. What is accepted is written back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::config::{FileRef, RawConfig};

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let file = FileRef::Path("config".into());
    let parsed = RawConfig::parse(&file, data).and_then(RawConfig::into_spec);
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            return;
        }
    };
    let text = spec.to_toml().expect("a specification can be written");
    let again = RawConfig::parse(&FileRef::Path("config.toml".into()), text.as_bytes());
    assert_eq!(again.and_then(RawConfig::into_spec).expect("what was written can be read"), spec);
    #[cfg(feature = "planted")]
    fuzz::plant(&[spec.cpus > 2]);
});
