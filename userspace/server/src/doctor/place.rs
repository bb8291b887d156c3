//! The data directory: whose it is, what it holds, and how good the disk under it is.

use super::Findings;
use crate::options::Options;
use base_text::quoted;
use control_raft::Held;
use rustix::process::{Resource, getrlimit};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub fn look(options: &Options, held: &Held, found: &mut Findings) {
    let directory = &options.data_dir;
    held_by(options, held, found);
    let there = existing(directory);
    if there != *directory {
        found.well("data directory", format!("{} is not there yet and will be created", directory.display()));
    } else {
        owned(directory, found);
    }
    if let Some(secret) = &options.cluster_secret
        && secret.is_open_to_all()
    {
        found.fault("cluster secret", "--cluster-secret-file can be read by every user of this machine: chmod 600 it");
    }
    space(&there, found);
    speed(&there, found);
    if let Some(logs) = &options.log_dir {
        let there = existing(logs);
        if let Err(error) = tried(&there, |_| Ok(())) {
            found.fault(
                "log directory",
                format!("--log-dir {}: cannot be written: {error}; chown it to weir's user", logs.display()),
            );
        }
    }
}

/// Each connection takes one.
pub fn descriptors(found: &mut Findings) {
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < DESCRIPTORS_MIN => found.fault(
            "open files",
            format!(
                "at most {most}, and each connection takes one or two: LimitNOFILE=1048576 in the unit, or ulimit -Hn"
            ),
        ),
        Some(most) if most < DESCRIPTORS => found.warning(
            "open files",
            format!(
                "at most {most}, and each connection takes one or two: LimitNOFILE=1048576 in the unit, or ulimit -Hn"
            ),
        ),
        Some(most) => found.well("open files", format!("up to {most}")),
        None => found.well("open files", "any number"),
    }
}

fn held_by(options: &Options, held: &Held, found: &mut Findings) {
    let place = options.data_dir.display();
    match held {
        Held::Nothing => found.well(
            "state",
            format!("none in {place}: the member founds its cluster, or is told everything by the others"),
        ),
        Held::InUse => found.well("state", format!("{place} is in use by a weir that runs")),
        Held::Unusable(why) => found.fault("state", why),
        Held::Of { superseded: Some(told), .. } => found.fault("state", told),
        Held::Of { name, cluster_name, .. } => {
            for (flag, stored, given) in
                [("--name", name, &options.name), ("--cluster-name", cluster_name, &options.cluster_name)]
            {
                if stored != given {
                    found.fault(
                        "state",
                        format!(
                            "{place} belongs to {flag} {}, and {flag} {} is given: repeat the old one, or choose another --data-dir",
                            quoted(stored),
                            quoted(given)
                        ),
                    );
                    return;
                }
            }
            found.well("state", format!("of member {} of cluster {}", quoted(name), quoted(cluster_name)));
        }
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(directory: &Path) -> PathBuf {
    let above = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    directory.ancestors().map(above).find(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/"))
}

fn owned(directory: &Path, found: &mut Findings) {
    let place = directory.display();
    let Ok(data) = fs::metadata(directory) else {
        return found.fault("data directory", format!("{place} cannot be looked at: chown it to weir's user"));
    };
    if !data.is_dir() {
        return found.fault(
            "data directory",
            format!("{place} is not a directory: move it away, or choose another --data-dir"),
        );
    }
    if data.mode() & 0o002 != 0 {
        found.fault(
            "data directory",
            format!("{place} can be written by every user of this machine: chmod o-w {place}"),
        );
    }
    let mut well = true;
    let files = files_below(directory);
    for (path, file) in &files {
        // Documents hold private keys.
        if file.is_file() && file.mode() & 0o044 != 0 && holds_secrets(directory, path) {
            well = false;
            found.fault(
                "data directory",
                format!("{} can be read by others, and holds private keys: chmod 600 it", path.display()),
            );
        }
        if file.uid() != data.uid() {
            well = false;
            found.fault(
                "data directory",
                format!(
                    "{} belongs to user {}, and the directory to user {}: weir was once started as another user; chown -R it",
                    path.display(),
                    file.uid(),
                    data.uid()
                ),
            );
        }
    }
    if well {
        found.well("data directory", format!("{place}, of user {}", data.uid()));
    }
}

/// The log and what is set aside of it; what the edge keeps, which is the objects; and of what the member shows the others all but
/// its certificates and where they are.
fn holds_secrets(directory: &Path, path: &Path) -> bool {
    let inside = path.strip_prefix(directory).unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match inside.parent().and_then(Path::to_str) {
        Some("edge") => true,
        Some("peer") => !PUBLIC.contains(&&*name),
        _ => name.starts_with("raft.redb") || name.ends_with("key.pem") || name.ends_with(".key"),
    }
}

/// Files of the directory and of the folders in it.
fn files_below(directory: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let entries = |directory: &Path| -> Vec<(PathBuf, fs::Metadata)> {
        let read = fs::read_dir(directory).into_iter().flatten().flatten();
        read.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).take(FILES_MAX).collect()
    };
    let mut files = Vec::new();
    for (path, data) in entries(directory) {
        if data.is_dir() {
            files.extend(entries(&path));
        }
        files.push((path, data));
    }
    files
}

fn space(there: &Path, found: &mut Findings) {
    let Ok(stats) = rustix::fs::statvfs(there) else { return };
    let free = stats.f_bavail.saturating_mul(stats.f_frsize);
    let text = format!("{} MiB are free where {} is", free >> 20, there.display());
    let advice = "weir keeps its log and the last good state there: make room, or choose another --data-dir";
    match free {
        _ if stats.f_files > 0 && stats.f_favail < INODES_MIN => {
            found.fault(
                "disk space",
                format!("{} inodes are free where {} is: {advice}", stats.f_favail, there.display()),
            );
        }
        free if free < FREE_MIN => found.fault("disk space", format!("{text}: {advice}")),
        free if free < FREE => found.warning("disk space", format!("{text}: {advice}")),
        _ => found.well("disk space", text),
    }
}

/// How long a small write takes until it is on the disk: every change waits for that on a majority of the members.
fn speed(there: &Path, found: &mut Findings) {
    let measured = tried(there, |file| {
        let mut times = Vec::new();
        for _ in 0..SYNCS {
            let began = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    });
    match measured {
        Err(error) => found.fault(
            "disk",
            format!(
                "{} cannot be written: {error}; chown it to weir's user, or choose another --data-dir",
                there.display()
            ),
        ),
        Ok(times) => {
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            let text = format!(
                "a write is safe in {}, {} at worst of {SYNCS}",
                base_text::duration(rounded(median)),
                base_text::duration(rounded(worst))
            );
            let advice =
                "every change waits for it: keep --data-dir on a local disk that is not busy with something else";
            match median {
                median if median > SYNC_MAX => found.fault("disk", format!("{text}; {advice}")),
                median if median > SYNC => found.warning("disk", format!("{text}; {advice}")),
                _ => found.well("disk", text),
            }
        }
    }
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_micros(duration.as_micros() as u64)
}

/// Does something with a file there that is gone afterwards.
fn tried<T>(there: &Path, with: impl FnOnce(&mut fs::File) -> io::Result<T>) -> io::Result<T> {
    let path = there.join(format!(".weir-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let done = file.and_then(|mut file| with(&mut file));
    let _ = fs::remove_file(&path);
    done
}

/// In the folder peer.
const PUBLIC: [&str; 3] = ["cert.pem", "authority.pem", "cluster.json"];
const DESCRIPTORS_MIN: u64 = 4096;
const DESCRIPTORS: u64 = 65_536;
/// Some snapshots of a small configuration.
const FREE_MIN: u64 = 64 << 20;
const FREE: u64 = 1 << 30;
const INODES_MIN: u64 = 16;
const FILES_MAX: usize = 1000;
const SYNCS: usize = 20;
/// A disk of rotating platters takes that.
const SYNC: Duration = Duration::from_millis(20);
/// Beyond this, members miss each other's heartbeats.
const SYNC_MAX: Duration = Duration::from_millis(200);
