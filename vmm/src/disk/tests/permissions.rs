//! Images that may not be read.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
#[allow(unsafe_code, reason = "no crate in use says as whom a thread opens files")]
fn what_may_not_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "a", &[0; 1 << 20]);
    let top = qcow2(dir.path(), "top.qcow2", Some(&path));
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    allow(dir.path(), 0o755);
    allow(&path, 0);
    allow(&top, 0o666);
    // Root may read everything; a thread that opens files as somebody else may not.
    let texts = std::thread::spawn(move || {
        // SAFETY: it changes this thread alone.
        unsafe { libc::setfsuid(65534) };
        [refusal(&spec(&path)), refusal(&spec(&top))]
    });
    let [raw, backing] = texts.join().unwrap();
    assert!(raw.ends_with("a: Permission denied (os error 13)"), "{raw}");
    assert!(
        backing.starts_with("backing file of") && backing.ends_with("a: Permission denied (os error 13)"),
        "{backing}"
    );
}
