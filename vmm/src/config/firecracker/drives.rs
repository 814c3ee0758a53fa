//! `drives` and `pmem` of Firecracker's configuration.

use serde::Deserialize;
use serde_json::Value;

use super::rate::RateLimiter;
use super::{invalid, place, refuse};
use crate::config::{
    CacheMode, Cmdline, DEFAULT_CMDLINE, DiskConfig, Error, FileRef, IoEngine, PmemConfig, RateLimit,
    RawConfig, Serial,
};

/// Firecracker 1.x, `BlockDeviceConfig`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drive {
    drive_id: String,
    is_root_device: bool,
    partuuid: Option<String>,
    path_on_host: Option<FileRef>,
    is_read_only: Option<bool>,
    cache_type: Option<CacheType>,
    io_engine: Option<Engine>,
    rate_limiter: Option<RateLimiter>,
    socket: Option<Value>,
}

/// Firecracker 1.x, `PmemConfig`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pmem {
    id: String,
    path_on_host: FileRef,
    root_device: Option<bool>,
    read_only: Option<bool>,
    rate_limiter: Option<Value>,
}

#[derive(Deserialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Deserialize)]
enum Engine {
    Sync,
    Async,
}

/// The disks and persistent memories, the root first, and a command line that names the root.
pub(super) fn into_raw(
    file: &FileRef,
    drives: Vec<Drive>,
    pmem: Vec<Pmem>,
    cmdline: Option<Cmdline>,
) -> Result<RawConfig, Error> {
    let mut root = None;
    let mut disks = Vec::new();
    for (index, drive) in drives.into_iter().enumerate() {
        let at = format!("drives[{index}] (\"{}\")", drive.drive_id);
        let words = drive.is_root_device.then(|| drive.root_words());
        let disk = drive.into_disk(file, &at)?;
        match words {
            Some(_) if root.is_some() => {
                return Err(invalid(file, &at, &"there is another root device: leave one"));
            }
            Some(words) => {
                root = Some(words);
                disks.insert(0, disk);
            }
            None => disks.push(disk),
        }
    }
    let mut memories = Vec::new();
    for (index, Pmem { id, path_on_host, root_device, read_only, rate_limiter }) in
        pmem.into_iter().enumerate()
    {
        let at = format!("pmem[{index}] (\"{id}\")");
        refuse(
            file,
            &format!("{at}.rate_limiter"),
            rate_limiter.as_ref(),
            "rate limiter of persistent memory",
        )?;
        let readonly = read_only.unwrap_or(false);
        if root_device == Some(true) {
            if root.is_some() {
                return Err(invalid(file, &at, &"there is another root device: leave one"));
            }
            root = Some(format!("root=/dev/pmem{index} {}", if readonly { "ro" } else { "rw" }));
        }
        memories.push(PmemConfig { path: path_on_host, readonly, private: false, transport: None });
    }
    let cmdline = match root {
        None => cmdline,
        Some(words) => {
            let given = cmdline.map_or_else(|| DEFAULT_CMDLINE.to_owned(), Cmdline::into_string);
            let whole = format!("{given} {words}");
            Some(whole.trim_start().parse().map_err(|e| invalid(file, "boot-source.boot_args", &e))?)
        }
    };
    Ok(RawConfig { disk: disks, pmem: memories, cmdline, ..RawConfig::default() })
}

impl Drive {
    /// As Firecracker tells the kernel.
    fn root_words(&self) -> String {
        let access = if self.is_read_only == Some(true) { "ro" } else { "rw" };
        match &self.partuuid {
            Some(uuid) => format!("root=PARTUUID={uuid} {access}"),
            None => format!("root=/dev/vda {access}"),
        }
    }

    fn into_disk(self, file: &FileRef, at: &str) -> Result<DiskConfig, Error> {
        let Self {
            drive_id,
            is_root_device: _,
            partuuid: _,
            path_on_host,
            is_read_only,
            cache_type,
            io_engine,
            rate_limiter,
            socket,
        } = self;
        refuse(file, &format!("{at}.socket"), socket.as_ref(), "disks of other processes (vhost-user)")?;
        let Some(path) = path_on_host else {
            return Err(Error::Invalid {
                place: place(file, at.to_owned()),
                reason: "missing field `path_on_host`".to_owned(),
            });
        };
        let RateLimit { bandwidth, ops } = rate_limiter.unwrap_or_default().into();
        Ok(DiskConfig {
            readonly: is_read_only.unwrap_or(false),
            // Firecracker takes images as they are.
            format: Some(crate::config::DiskFormat::Raw),
            cache: match cache_type {
                None | Some(CacheType::Unsafe) => CacheMode::Unsafe,
                Some(CacheType::Writeback) => CacheMode::Writeback,
            },
            io: match io_engine {
                None | Some(Engine::Sync) => IoEngine::Sync,
                Some(Engine::Async) => IoEngine::Uring,
            },
            serial: drive_id.parse::<Serial>().ok(),
            bandwidth,
            ops,
            ..DiskConfig::new(path)
        })
    }
}
