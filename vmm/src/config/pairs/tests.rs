use std::num::NonZeroU8;

use serde::Deserialize;

use super::{Device, many, parse};
use crate::config::value::queues;
use crate::config::{FileRef, TransportKind};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Lamp {
    path: FileRef,
    #[serde(default)]
    read_only: bool,
    #[serde(default, deserialize_with = "queues")]
    watts: Option<NonZeroU8>,
    transport: Option<TransportKind>,
}

impl Device for Lamp {
    fn check(&self) -> Result<(), &'static str> {
        if self.watts == NonZeroU8::new(100) { Err("as bright as that there is none") } else { Ok(()) }
    }
}

#[derive(Debug, Deserialize)]
struct House {
    #[serde(deserialize_with = "many")]
    lamp: Vec<Lamp>,
}

#[test]
fn text_and_tables_are_alike() {
    let bright = || Lamp {
        path: FileRef::Path("a,b".into()),
        read_only: true,
        watts: NonZeroU8::new(60),
        transport: Some(TransportKind::Pci),
    };
    let dark = || Lamp { path: FileRef::Fd(3), read_only: false, watts: None, transport: None };
    let text = "path=a,,b,read-only,watts=60,transport=pci";
    assert_eq!(parse::<Lamp>(text), Ok(bright()));
    for house in [
        format!("lamp = ['{text}', {{ path = 'fd:3' }}]"),
        "[[lamp]]\npath='a,b'\nread-only=true\nwatts=60\ntransport='pci'\n[[lamp]]\npath='fd:3'".to_owned(),
    ] {
        assert_eq!(toml::from_str::<House>(&house).unwrap().lamp, [bright(), dark()]);
    }
    assert_eq!(toml::from_str::<House>("lamp = 'path=fd:3,read-only=off'").unwrap().lamp, [dark()]);
}

#[test]
fn what_is_wrong_is_said() {
    for (text, expected) in [
        ("", "`path` is missing: add path=…"),
        ("path=a,path=b", "`path` is given twice: give it once"),
        ("path", "path: a value is missing: write path=…"),
        ("path=a,transport", "transport: a value is missing: write transport=…"),
        ("path=", "path: the path is empty: name a file"),
        ("path=a,watt=3", "`watt` is no option: did you mean `watts`?"),
        ("path=a,colour=red", "`colour` is no option: give one of path, read-only, watts, transport"),
        ("a,,b.img,read-only", "`a,b.img` is no option: did you mean path=a,,b.img?"),
        (
            "path=a,b.img",
            "`b.img` is no option: write a comma in a value twice, or give one of path, read-only, watts, transport",
        ),
        ("read_only,path=a", "`read_only` is no option: did you mean `read-only`?"),
        ("path=a,read_only", "`read_only` is no option: did you mean `read-only`?"),
        ("path=a,watts=x", "watts: `x` is no number of queues: give 1 to 255"),
        ("path=a,watts=100", "as bright as that there is none"),
        ("path=a,read-only=maybe", "read-only: `maybe` is neither on nor off: write one of them"),
        ("path=a,transport=isa", "transport: `isa` is not known: give mmio, mmio-cmdline or pci"),
    ] {
        assert_eq!(parse::<Lamp>(text).unwrap_err().to_string(), expected, "{text}");
        let in_file = toml::from_str::<House>(&format!("lamp = '{text}'")).unwrap_err();
        assert_eq!(in_file.message(), expected, "{text}");
    }
    let table = toml::from_str::<House>("[lamp]\npath = 'a'\nwatts = 100").unwrap_err();
    assert_eq!(table.message(), "as bright as that there is none");
}
