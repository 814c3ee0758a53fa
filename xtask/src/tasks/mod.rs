//! The tasks: each file has an `Args` for clap and a `run` that does it.

pub mod bench;
pub mod build;
pub mod ci;
pub mod clean;
pub mod doctor;
pub mod fuzz;
pub mod guard;
pub mod kernel;
pub mod profile;
pub mod run;
pub mod test;
pub mod tidy;
