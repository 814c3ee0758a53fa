//! The configuration of init: what is accepted is written back as the same.
#![no_main]

use abi::init_config::directives;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::compare(), |data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(found) = directives(text).collect::<Result<Vec<_>, _>>() else { return };
    let written: String = found.iter().map(ToString::to_string).collect();
    let again: Vec<_> = directives(&written).collect::<Result<_, _>>().expect("what was written can be read");
    assert_eq!(again, found);
    #[cfg(feature = "planted")]
    fuzz::plant(&[
        found.len() == 3,
        found.iter().any(|d| matches!(d, abi::init_config::Directive::Hostname(name) if name.len() == 5)),
    ]);
});
