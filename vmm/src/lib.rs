//! Jiffy's virtual machine monitor.
//!
//! Modules are listed from the leaves up; each uses only those above it in this list.

pub mod config;
pub mod cpuid;
pub mod timeline;

pub mod acpi;

pub mod memory;

pub mod boot;

pub mod cli;
