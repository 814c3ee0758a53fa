//! What sits at fixed ports.

mod acpi_pm;
mod cmos;
mod debug_exit;
mod fw_cfg;
mod i8042;
mod jiffy;
mod pvpanic;
mod serial;

pub use acpi_pm::AcpiPm;
pub use cmos::Cmos;
pub use debug_exit::DebugExit;
pub use fw_cfg::FwCfg;
pub use i8042::I8042;
pub use jiffy::JiffyPorts;
pub use pvpanic::Pvpanic;
pub use serial::SerialPort;
