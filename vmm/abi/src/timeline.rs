//! Marks that a guest writes to [`crate::ports::TIMELINE`].

/// A moment in a guest's life, one byte; a value without a name is data, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mark(pub u8);

impl Mark {
    /// First instruction of a firmware in its own code.
    pub const FIRMWARE_START: Self = Self(0x01);
    /// A firmware hands over to its payload.
    pub const FIRMWARE_END: Self = Self(0x0f);
    /// First instruction of a kernel, where the kernel can say so.
    pub const KERNEL_ENTRY: Self = Self(0x10);
    /// First instruction of init.
    pub const INIT_START: Self = Self(0x20);
    /// Init starts the workload.
    pub const WORKLOAD_START: Self = Self(0x21);
    /// Init has reaped the workload.
    pub const WORKLOAD_END: Self = Self(0x22);
    /// First of the marks that are the workload's own.
    pub const USER: Self = Self(0x80);

    /// The mark's name in timelines, if it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::FIRMWARE_START => "firmware's first instruction",
            Self::FIRMWARE_END => "firmware hands over",
            Self::KERNEL_ENTRY => "kernel entry",
            Self::INIT_START => "init's first instruction",
            Self::WORKLOAD_START => "workload started",
            Self::WORKLOAD_END => "workload ended",
            _ => return None,
        })
    }
}
