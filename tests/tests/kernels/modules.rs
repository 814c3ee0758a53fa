//! The kernel `full` loads its modules: those that init is told of, and those that the kernel asks for itself.

use std::fs;
use std::path::Path;

use abi::init_config::Directive;
use anyhow::Result;
use libtest_mimic::Trial;
use tests::{Guest, suite};
use xtask::ctx::Ctx;
use xtask::tuned::Tuned;
use xtask::{built, initramfs};

/// What a workload says when it has come to its end.
const DONE: &str = "guest: done";
/// What init is told to load; each needs others.
const MODULES: [&str; 4] = ["bridge", "nft_masq", "nft_fib_inet", "dm_crypt"];
/// Interfaces of containers, whose modules the kernel asks for, joined and up; and Docker's tables of old.
const CONTAINERS: &str = "uname -r; ls -1d /sys/module/nf_tables /sys/module/nf_nat; \
    brctl addbr br0; ip link add v0 type veth; ip link add w0 type wireguard; ip link add d0 type dummy; \
    brctl addif br0 v0; ip link set v0 up; ip link set veth0 up; ip link set br0 up; ip address add 10.9.0.1/24 dev br0; \
    ls /sys/class/net/br0/brif; cat /sys/class/net/v0/carrier; ip -o link show w0 | grep -c POINTOPOINT; \
    modprobe -a iptable_nat xt_MASQUERADE; grep MASQUERADE /proc/net/ip_tables_targets; \
    mkdir /tmp/a /tmp/b /tmp/c /tmp/m; \
    mount -t overlay -o lowerdir=/tmp/a,upperdir=/tmp/b,workdir=/tmp/c none /tmp/m && echo layered; \
    modprobe -r wireguard && echo unloaded; echo guest: done";
/// Loads all that there are; names those that do not go in, and what the kernel complains of.
const ALL: &str = "cd /lib/modules/*/ && find . -name '*.ko' > /tmp/all; dmesg -c > /tmp/before; \
    while read m; do m=${m##*/}; modprobe ${m%.ko} || echo ${m%.ko} >> /tmp/left; done < /tmp/all; \
    [ $(wc -l < /tmp/all) -gt 200 ] && echo many; cat /tmp/left && echo left out || echo none left out; \
    dmesg | grep -iE 'unknown symbol|disagrees|tainted|warning|bug:' && echo complaints || echo no complaints; \
    echo guest: done";

pub fn trials(ctx: &Ctx, tuned: &Tuned, modules: &Path, place: &Path) -> Result<Vec<Trial>> {
    let config: Vec<_> = MODULES.iter().map(|&name| Directive::Module { name, parameters: "" }).collect();
    let mut cpio = initramfs::with_init(built::INIT.read(ctx)?, &config)?;
    initramfs::add_busybox(&mut cpio, ctx)?;
    let initrd = place.join("modules");
    fs::write(&initrd, initramfs::build(cpio, Some(modules))?)?;
    let mut lab = suite::nested_lab(ctx)?;
    lab.file("bzimage", &tuned.image()).file("initrd", &initrd);
    let guest = |name: &str| {
        Guest::new(&format!("{}::modules::{name}", tuned.variant))
            .flag("kernel", "{bzimage}")
            .flag("initrd", "{initrd}")
            .says(DONE)
    };
    let containers = guest("containers").shell(CONTAINERS);
    let said =
        ["v0", "1", "MASQUERADE", "layered", "unloaded", "/sys/module/nf_tables", "/sys/module/nf_nat"];
    let containers = said.into_iter().fold(containers, Guest::says);
    let all = guest("all").shell(ALL);
    let all = ["many", "none left out", "no complaints"].into_iter().fold(all, Guest::says);
    suite::guests(ctx, lab, vec![containers, all])
}
