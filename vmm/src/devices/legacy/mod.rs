//! What sits at fixed ports.

mod acpi_pm;
mod cmos;
mod i8042;
mod jiffy;
mod pvpanic;
mod serial;

pub use acpi_pm::AcpiPm;
pub use cmos::Cmos;
pub use i8042::I8042;
pub use jiffy::JiffyPorts;
pub use pvpanic::Pvpanic;
pub use serial::SerialPort;
