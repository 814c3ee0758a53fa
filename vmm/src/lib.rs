//! Jiffy's virtual machine monitor.
//!
//! Modules are listed from the leaves up; each uses only those above it in this list.

pub mod config;
pub mod sandbox;
pub mod state;
pub mod timeline;

pub mod cpuid;

pub mod acpi;

pub mod memory;

pub mod disk;

pub mod boot;

pub mod kvm;
pub mod outcome;

pub mod bus;
pub mod interrupt;
pub mod resources;

pub mod devices;

pub mod vcpu;

pub mod machine;

pub mod open;

pub mod control;

pub mod cli;
