//! What `jiffy` is to use of this host, as far as the nested lab can have it: taps of its own, copies of files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xtask::lab::Lab;

/// The most that all copies may have together: they lie in the lab's memory, and do so twice while it starts.
const MOST: u64 = 2 << 30;

/// What becomes in the lab of what a flag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A file that is read: the lab has a copy.
    Copied,
    /// An image, which the guest may write to: the lab has a copy.
    Image,
    /// It is written or made in the lab, and gone with it.
    Lost,
    /// A tap: the lab makes one of that name.
    Tap,
    /// It is of use on this host only.
    Refused,
}

/// The flags that name something of this host, and the option in the value that does; without one, all of the value does.
const FLAGS: [(&str, &str, Fate); 14] = [
    ("--config", "", Fate::Copied),
    ("--kernel", "", Fate::Copied),
    ("--initrd", "", Fate::Copied),
    ("--firmware", "", Fate::Copied),
    ("--module", "file=", Fate::Copied),
    ("--fw-cfg", "file=", Fate::Copied),
    ("--disk", "path=", Fate::Image),
    ("--pmem", "path=", Fate::Image),
    ("--net", "passt=", Fate::Refused),
    ("--net", "tap=", Fate::Tap),
    ("--result", "", Fate::Lost),
    ("--port", "file=", Fate::Lost),
    ("--console", "file=", Fate::Lost),
    ("--vsock", "path=", Fate::Lost),
];

/// The flags whose values name what has this fate, and the option that does.
fn flags(fate: Fate) -> impl Iterator<Item = (&'static str, &'static str)> {
    FLAGS.into_iter().filter(move |(.., its)| *its == fate).map(|(flag, option, _)| (flag, option))
}

/// The parts of a flag's value: one, or its options.
fn parts<'a>(value: &'a str, option: &str) -> Vec<&'a str> {
    if option.is_empty() { vec![value] } else { value.split(',').collect() }
}

/// What is named with this fate, in the order of [`FLAGS`]; descriptors are left out.
fn named(jiffy: &[String], fate: Fate) -> Vec<&str> {
    let mut named = Vec::new();
    for (flag, option) in flags(fate) {
        let values = values(jiffy, &[flag]).into_iter().map(|(at, from)| &jiffy[at][from..]);
        let parts = values.flat_map(|value| parts(value, option));
        named.extend(
            parts.filter_map(|part| part.strip_prefix(option)).filter(|name| !name.starts_with("fd:")),
        );
    }
    named
}

/// Where the values of these flags stand in the words for `jiffy`, and where in the word each begins.
fn values(jiffy: &[String], flags: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, word) in jiffy.iter().enumerate() {
        for flag in flags {
            let before = at.checked_sub(1).map(|before| jiffy[before].as_str());
            match word.strip_prefix(flag) {
                _ if before == Some(flag) => found.push((at, 0)),
                Some(rest) if rest.starts_with('=') => found.push((at, flag.len() + 1)),
                _ => {}
            }
        }
    }
    found
}

/// The taps that `jiffy` is to use, by name, in their order.
pub fn taps(jiffy: &[String]) -> Vec<&str> {
    named(jiffy, Fate::Tap)
}

/// Whether the command line that the guest gets names a root. The initramfs made here would come before that.
pub fn root(jiffy: &[String]) -> bool {
    let lines = values(jiffy, &["--cmdline"]).into_iter().map(|(at, from)| &jiffy[at][from..]);
    lines.flat_map(str::split_whitespace).any(|word| word.starts_with("root="))
}

/// Words that make the taps in the lab, and then run what follows: the lab is 10.0.N.1 in the network of tap number N,
/// counted from 0.
pub fn plug(taps: &[&str]) -> Vec<String> {
    if taps.is_empty() {
        return Vec::new();
    }
    let make = |(number, tap): (usize, &&str)| {
        format!(
            "tunctl -t {tap} >/dev/null && ip address add 10.0.{number}.1/24 dev {tap} && ip link set {tap} up || exit 125; "
        )
    };
    let script: String = taps.iter().enumerate().map(make).collect();
    ["sh", "-c", &format!("{script}exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// Fails where `jiffy` is to use what the nested lab cannot have: sockets at which somebody on this host listens, and
/// descriptors that are open here.
pub fn reachable(jiffy: &[String]) -> Result<()> {
    for (flag, option, fate) in FLAGS {
        for (at, from) in values(jiffy, &[flag]) {
            let value = &jiffy[at][from..];
            let parts = parts(value, option);
            ensure!(
                fate != Fate::Refused || !parts.iter().any(|part| part.starts_with(option)),
                "{flag} {value}: the nested lab cannot reach a socket of this host; with tap=NAME it makes a tap of its own"
            );
            let is_open =
                |part: &&str| part.split_once('=').map_or(*part, |(_, file)| file).starts_with("fd:");
            ensure!(
                !parts.iter().any(is_open),
                "{value}: the nested lab cannot have a descriptor of this host: name a file"
            );
        }
    }
    Ok(())
}

/// Gives the lab copies of the other files that `jiffy` is to read, and returns the words for `jiffy` with their paths
/// there.
pub fn files(jiffy: &[String], lab: &mut Lab) -> Result<Vec<String>> {
    let mut words = jiffy.to_vec();
    let mut number = 0;
    for (name, option) in flags(Fate::Copied) {
        for (at, from) in values(jiffy, &[name]) {
            let (flag, value) = jiffy[at].split_at(from);
            let mut copied = Vec::new();
            for part in parts(value, option) {
                match part.strip_prefix(option) {
                    Some(path) if !path.starts_with("fd:") => {
                        ensure!(Path::new(path).is_file(), "{path}: no such file");
                        let file = format!("file{number}");
                        number += 1;
                        lab.file(&file, Path::new(path));
                        if name == "--config" {
                            eprintln!(
                                "{path}: the nested lab has a copy, and none of the files that it names"
                            );
                        }
                        copied.push(format!("{option}{{{file}}}"));
                    }
                    _ => copied.push(part.to_owned()),
                }
            }
            words[at] = format!("{flag}{}", copied.join(","));
        }
    }
    Ok(words)
}

/// What `jiffy` is to write or to make, by path: in the lab that is gone when the guest is.
pub fn lost(jiffy: &[String]) -> Vec<&str> {
    named(jiffy, Fate::Lost)
}

/// Gives the lab copies of the images that `jiffy` is to use, and returns the words for `jiffy` with their paths there.
/// What is written goes to the copies, and is gone when the lab is; who starts this is told so.
pub fn images(jiffy: &[String], lab: &mut Lab) -> Result<Vec<String>> {
    let mut words = jiffy.to_vec();
    let mut total = 0;
    let images: Vec<_> = flags(Fate::Image).map(|(flag, _)| flag).collect();
    for (number, (at, from)) in values(jiffy, &images).into_iter().enumerate() {
        let (flag, value) = jiffy[at].split_at(from);
        let image = Image::of(value, &format!("image{number}"));
        if let Some(path) = &image.path {
            let found = path.metadata().with_context(|| format!("image {}", path.display()))?;
            ensure!(found.is_file(), "image {}: the nested lab can have regular files only", path.display());
            total += found.len();
            ensure!(
                total <= MOST,
                "images of more than {} MiB: the nested lab copies them into its memory",
                MOST >> 20
            );
            lab.file(&image.name, path);
            if image.is_written {
                eprintln!(
                    "{}: the nested lab has a copy, and what the guest writes is gone with it",
                    path.display()
                );
            }
        }
        words[at] = format!("{flag}{}", image.value);
    }
    lab.memory_mib += (2 * total).div_ceil(1 << 20) as u32;
    Ok(words)
}

/// An image among the words for `jiffy`.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    /// What it is called in the lab.
    name: String,
    /// Where it is on the host; none for a descriptor, or where nothing is said.
    path: Option<PathBuf>,
    /// The flag's value, for the lab.
    value: String,
    /// The guest writes to it.
    is_written: bool,
}

impl Image {
    fn of(value: &str, name: &str) -> Self {
        let mut image = Self { name: name.to_owned(), path: None, value: String::new(), is_written: true };
        let mut options: Vec<String> = Vec::new();
        for option in value.split(',') {
            match option.split_once('=') {
                Some(("path", path)) if !path.starts_with("fd:") => {
                    image.path = Some(path.into());
                    options.push(format!("path={{{name}}}"));
                }
                // Nobody could look at the overlay afterwards.
                Some(("overlay", file)) => {
                    image.is_written = file != "tmp";
                    options.push("overlay=tmp".to_owned());
                }
                _ => options.push(option.to_owned()),
            }
        }
        image.is_written &= !options.iter().any(|option| matches!(option.as_str(), "readonly" | "private"));
        // In the lab its name says nothing of that any more.
        let is_qcow2 =
            image.path.as_deref().and_then(Path::extension).is_some_and(|extension| extension == "qcow2");
        if is_qcow2 && !options.iter().any(|option| option.starts_with("format=")) {
            options.push("format=qcow2".to_owned());
        }
        image.value = options.join(",");
        image
    }
}

#[cfg(test)]
mod tests {
    use xtask::lab::Way;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn taps_of_the_lab() {
        let jiffy = words(&[
            "--net",
            "tap=a,mtu=1400",
            "--cpus",
            "2",
            "--net=passt=/p",
            "--net=tap=b",
            "--net",
            "tap=fd:3",
        ]);
        assert_eq!(taps(&jiffy), ["a", "b"]);
        assert!(plug(&[]).is_empty());
        assert!(plug(&["a", "b"])[2].contains("10.0.1.1/24 dev b"));
    }

    #[test]
    fn values_of_flags() {
        let image = |value| Image::of(value, "image0");
        let found = image("path=/a/b.raw,queues=2");
        assert_eq!((found.value.as_str(), found.is_written), ("path={image0},queues=2", true));
        assert_eq!(found.path.as_deref(), Some(Path::new("/a/b.raw")));
        assert_eq!(image("path=b.qcow2,overlay=tmp").value, "path={image0},overlay=tmp,format=qcow2");
        assert!(!image("path=b.qcow2,overlay=tmp").is_written);
        assert!(image("path=b,overlay=/o").is_written);
        assert!(!image("path=b,readonly").is_written);
        assert_eq!(image("path=b.qcow2,format=raw").value, "path={image0},format=raw");
        assert_eq!((image("path=fd:7").value.as_str(), image("path=fd:7").path), ("path=fd:7", None));
    }

    #[test]
    fn images_are_copied() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk");
        std::fs::write(&path, vec![0; 3 << 20]).unwrap();
        let mut lab = Lab::new(Way::Native);
        let memory = lab.memory_mib;
        let given = words(&[
            "--rng",
            "--disk",
            &format!("path={}", path.display()),
            &format!("--pmem=path={},private", path.display()),
        ]);
        let found = images(&given, &mut lab).unwrap();
        assert_eq!(found, ["--rng", "--disk", "path={image0}", "--pmem=path={image1},private"]);
        assert_eq!(lab.memory_mib, memory + 12);
        let error = images(&words(&["--disk", "path=/no/such"]), &mut lab).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    #[test]
    fn what_is_lost_with_the_lab() {
        let given =
            ["--port=name=a,file=log", "--result", "r,s.json", "--console", "off", "--vsock", "path=fd:3"];
        assert_eq!(lost(&words(&given)), ["r,s.json", "log"]);
    }

    #[test]
    fn a_root_is_named() {
        assert!(root(&words(&["--cmdline", "quiet root=/dev/vda rw"])));
        assert!(root(&words(&["--cmdline=root=/dev/vda"])));
        assert!(!root(&words(&["--disk", "path=root=x", "--cmdline", "xroot=/dev/vda"])));
    }

    #[test]
    fn what_only_this_host_has_is_refused() {
        let refused = |given: &[&str]| reachable(&words(given)).unwrap_err().to_string();
        assert_eq!(
            refused(&["--rng", "--net=mtu=1400,passt=/p"]),
            "--net mtu=1400,passt=/p: the nested lab cannot reach a socket of this host; with tap=NAME it makes a tap of \
             its own"
        );
        for given in [["--net", "tap=fd:3"], ["--initrd", "fd:4"], ["--disk", "readonly,path=fd:5"]] {
            assert!(refused(&given).contains("cannot have a descriptor"), "{given:?}");
        }
        reachable(&words(&["--net", "tap=a", "--cmdline", "x=fd:3", "--config", "vm.toml"])).unwrap();
    }

    #[test]
    fn other_files_are_copied() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a,b");
        std::fs::write(&path, "text").unwrap();
        let plain = place.path().join("plain");
        std::fs::write(&plain, "text").unwrap();
        let mut lab = Lab::new(Way::Native);
        let given = words(&[
            "--initrd",
            path.to_str().unwrap(),
            &format!("--module=cmdline=x y,file={}", plain.display()),
            "--fw-cfg",
            "name=opt/a,string=file",
            "--module",
            "file=fd:3",
            "--config",
            plain.to_str().unwrap(),
        ]);
        let found = files(&given, &mut lab).unwrap();
        assert_eq!(found[1..3], ["{file1}", "--module=cmdline=x y,file={file2}"]);
        assert_eq!(found[3..8], given[3..8]);
        assert_eq!(found[8], "{file0}");
        let error = files(&words(&["--module", "file=/no/such"]), &mut lab).unwrap_err();
        assert_eq!(error.to_string(), "/no/such: no such file");
    }
}
