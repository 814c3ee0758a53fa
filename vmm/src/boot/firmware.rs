//! A firmware: a ROM image that ends at 4 GiB, entered at the reset vector.

use std::sync::Arc;

use abi::layout;

use super::error::FirmwareError;
use super::{BootCpu, BootState, FilePart, Input};

/// What a ROM's size is a multiple of.
const PAGE: u64 = 4096;

/// Checks a ROM image; mapping it, and its shadow below 1 MiB, is up to the machine.
pub fn load(input: &Input<'_>) -> Result<BootState, FirmwareError> {
    let meta = input.file.metadata()?;
    if !meta.is_file() {
        return Err(FirmwareError::NotAFile);
    }
    let size = meta.len();
    if size == 0 || size % PAGE != 0 || size > layout::ROM.len {
        return Err(FirmwareError::Size { size });
    }
    let rom = FilePart { file: Arc::clone(&input.file), offset: 0, len: size };
    Ok(BootState { writes: Vec::new(), rom: Some(rom), cpu: BootCpu::Reset, loaded_bytes: 0, kernel: None })
}
