//! The constructor table of virtio devices: each kind once, with its files open. A new kind adds its line here.

use super::Error;
use crate::config::{DevicesSpec, TransportKind};
use crate::devices::virtio::{Entropy, VirtioDevice};
use crate::machine::Attachment;

/// Opens what the devices need, and makes them.
pub(super) fn open(spec: &DevicesSpec) -> Result<Vec<Attachment>, Error> {
    let DevicesSpec { transport, rng } = spec;
    let attach = |name: String, own: Option<TransportKind>, device: Box<dyn VirtioDevice>| Attachment {
        name,
        transport: own.unwrap_or(*transport),
        device,
    };
    let mut all = Vec::new();
    all.extend(rng.iter().map(|rng| attach("rng".to_owned(), rng.transport, Box::new(Entropy))));
    Ok(all)
}
