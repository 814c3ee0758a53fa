//! Sockets whose readers do not read yet, both ways at the same time: the writers wait, and other streams do not.

use tests::Guest;

use super::{DONE, STOP};

/// Many times what may be under way: 256 KiB of credit, and the buffers of Unix sockets.
const BYTES: u32 = 8_000_000;

pub fn guest(transport: &str, [kernel, initrd]: [&str; 2]) -> Guest {
    let script = format!(
        "{{wire}} serve unix:{{out}}/v_5000 >/dev/null & \"$@\" & jiffy=$!; \
         {{wire}} call unix:{{out}}/v:5000 hold {BYTES} | sed 's/wire/lab/' >&2; {STOP} wait $jiffy"
    );
    Guest::new(&format!("fast::{transport}::vsock_back_pressure"))
        .within(&["sh", "-c", &script, "sh"])
        .flag("kernel", kernel)
        .flag("initrd", initrd)
        .flag("cpus", "2")
        .flag("transport", transport)
        .flag("vsock", "cid=3,path={out}/v")
        .shell(&format!(
            "wire serve vsock:4294967295:5000 >/dev/null & wire call vsock:2:5000 hold {BYTES}; \
             wire wait vsock:4294967295:6000 && echo guest: done"
        ))
        .says(&format!("wire: hold {BYTES} ok"))
        .complains(&format!("lab: hold {BYTES} ok"))
        .says(DONE)
}
