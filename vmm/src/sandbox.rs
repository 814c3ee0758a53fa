//! The last step before the guest runs: from here on no privilege can be gained, and no file is opened by path.

use std::io;

/// Proof that the process is sealed; what runs a guest wants to see it.
#[derive(Debug)]
pub struct Sealed(());

/// Gives up what the guest's side of the process will not need. Every file has to be open by now.
pub fn seal() -> io::Result<Sealed> {
    rustix::thread::set_no_new_privs(true)?;
    Ok(Sealed(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_new_privileges() {
        seal().unwrap();
        assert!(rustix::thread::no_new_privs().unwrap());
    }
}
