//! `/profile`: where this machine's time and memory go, into files that `go tool pprof` and its like read.
//!
//! Time is told by thread, memory by what it is held for: what the kernel and the ledger count anyway, so that a profile costs nothing
//! while it runs. For time by function there is `perf` on the machine.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use base_text::quoted;
use control_api::Role;
use serde_json::json;

use crate::access::caller;
use crate::alone::Here;
use crate::body::{Answer, Error, Reply, Text};

/// What is being profiled on this machine; there is one process.
static RUNNING: Mutex<Running> = Mutex::new(Running { cpu: None, memory: None });

struct Running {
    cpu: Option<Cpu>,
    memory: Option<Output>,
}

struct Cpu {
    output: Output,
    began: Instant,
    /// Nanoseconds each thread had run for.
    before: BTreeMap<u32, (String, u64)>,
}

/// A file that is there, for what comes at the end.
struct Output {
    path: String,
    file: File,
}

/// `GET /profile`: the files that are being written.
pub async fn status() -> Answer {
    caller().needs(Role::Read, None)?;
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = |output: Option<&Output>| output.map_or_else(String::new, |output| output.path.clone());
    let cpu = running.cpu.as_ref().map(|cpu| &cpu.output);
    Ok(Reply::body(json!({"cpuPath": path(cpu), "memoryPath": path(running.memory.as_ref())})))
}

/// `POST /profile/start/cpu`. One that runs already comes to its end.
pub async fn start_cpu(body: Text) -> Answer {
    caller().needs(Role::Admin, None)?;
    let output = Output::create(&body)?;
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = threads().map_err(unreadable)?;
    let former = running.cpu.replace(Cpu { output, began: Instant::now(), before });
    former.map_or(Ok(()), Cpu::finish)?;
    Ok(Reply::default())
}

/// `POST /profile/start/memory`: what is held when it is stopped.
pub async fn start_memory(body: Text) -> Answer {
    caller().needs(Role::Admin, None)?;
    let output = Output::create(&body)?;
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).memory = Some(output);
    Ok(Reply::default())
}

/// `POST /profile/stop`: writes both.
pub async fn stop(State(Here(local)): State<Here>) -> Answer {
    caller().needs(Role::Admin, None)?;
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let (cpu, memory) = (running.cpu.take(), running.memory.take());
    drop(running);
    cpu.map_or(Ok(()), Cpu::finish)?;
    if let Some(output) = memory {
        let resident = fs::read_to_string("/proc/self/status").map_err(unreadable)?;
        output.write(&profile(("inuse_space", "bytes"), &held(&local.metrics(), &resident), Duration::ZERO))?;
    }
    Ok(Reply::default())
}

impl Output {
    /// A file that nobody else has: what is there stays as it is.
    fn create(body: &Text) -> Result<Output, Error> {
        let document = body.document()?;
        let path = document.get("path").and_then(serde_json::Value::as_str).unwrap_or_default();
        if path.is_empty() {
            return Err(Error::invalid(
                "path is missing: say which file of this machine is to be written, {\"path\": \"/tmp/cpu.prof\"}",
            ));
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(Path::new(path));
        let file = made.map_err(|error| {
            Error::invalid(format!(
                "path = {}: {error}; name a file that is not there, in a directory that is",
                quoted(path)
            ))
        })?;
        Ok(Output { path: path.to_owned(), file })
    }

    fn write(mut self, profile: &[u8]) -> Result<(), Error> {
        self.file.write_all(profile).map_err(|error| Error::invalid(format!("path = {}: {error}", quoted(&self.path))))
    }
}

impl Cpu {
    fn finish(self) -> Result<(), Error> {
        let mut spent: BTreeMap<String, u64> = BTreeMap::new();
        for (thread, (name, now)) in threads().map_err(unreadable)? {
            let before = self.before.get(&thread).filter(|(known, _)| *known == name).map_or(0, |(_, before)| *before);
            *spent.entry(name).or_default() += now.saturating_sub(before);
        }
        self.output.write(&profile(("cpu", "nanoseconds"), &spent, self.began.elapsed()))
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::invalid(format!("what the kernel knows of this process cannot be read: {error}; /proc has to be mounted"))
}

/// Threads of this process: name, and nanoseconds on a processor.
fn threads() -> std::io::Result<BTreeMap<u32, (String, u64)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ends meanwhile is none any more.
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
        let (Some(name), Some(times)) = (read("comm"), read("schedstat")) else { continue };
        let time = times.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or_default();
        all.insert(id, (name.trim_end().to_owned(), time));
    }
    Ok(all)
}

/// Bytes by what they are held for, and the rest of what the process has in memory.
fn held(metrics: &str, status: &str) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("weir_worker_memory_bytes{")) {
        let Some((labels, value)) = line.rsplit_once(' ') else { continue };
        let kind = labels.split("kind=\"").nth(1).and_then(|rest| rest.split('"').next());
        if let (Some(kind), Ok(bytes)) = (kind, value.parse::<f64>()) {
            *all.entry(kind.to_owned()).or_default() += bytes.max(0.0) as u64;
        }
    }
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let known: u64 = all.values().sum();
    all.insert("rest of the process".to_owned(), (kibibytes.unwrap_or_default() * 1024).saturating_sub(known));
    all
}

/// A profile in the form of pprof (`perftools.profiles.Profile` of its profile.proto): one function for each name.
fn profile((kind, unit): (&str, &str), values: &BTreeMap<String, u64>, lasted: Duration) -> Vec<u8> {
    let mut strings = vec!["", kind, unit];
    strings.extend(values.keys().map(String::as_str));
    let mut out = Vec::new();
    let value_type = message(&[(1, Field::Number(1)), (2, Field::Number(2))]);
    write(&mut out, 1, &Field::Bytes(&value_type));
    for (n, value) in values.values().enumerate() {
        let id = n as u64 + 1;
        write(&mut out, 2, &Field::Bytes(&message(&[(1, Field::Number(id)), (2, Field::Number(*value))])));
        let line = message(&[(1, Field::Number(id))]);
        write(&mut out, 4, &Field::Bytes(&message(&[(1, Field::Number(id)), (4, Field::Bytes(&line))])));
        write(&mut out, 5, &Field::Bytes(&message(&[(1, Field::Number(id)), (2, Field::Number(id + 2))])));
    }
    for text in strings {
        write(&mut out, 6, &Field::Bytes(text.as_bytes()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    write(&mut out, 9, &Field::Number(now.as_nanos() as u64));
    write(&mut out, 10, &Field::Number(lasted.as_nanos() as u64));
    out
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn message(fields: &[(u64, Field)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, field) in fields {
        write(&mut out, *number, field);
    }
    out
}

/// A field of a protocol buffer.
fn write(out: &mut Vec<u8>, number: u64, field: &Field) {
    match field {
        Field::Number(value) => {
            varint(out, number << 3);
            varint(out, *value);
        }
        Field::Bytes(bytes) => {
            varint(out, number << 3 | 2);
            varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_what_pprof_reads() {
        let values = BTreeMap::from([("a".to_owned(), 300), ("b".to_owned(), 1)]);
        let bytes = profile(("cpu", "ns"), &values, Duration::ZERO);
        let expected: &[&[u8]] = &[
            &[0x0a, 4, 0x08, 1, 0x10, 2],
            &[0x12, 5, 0x08, 1, 0x10, 0xac, 0x02],
            &[0x22, 6, 0x08, 1, 0x22, 2, 0x08, 1],
            &[0x2a, 4, 0x08, 1, 0x10, 3],
            &[0x12, 4, 0x08, 2, 0x10, 1],
            &[0x22, 6, 0x08, 2, 0x22, 2, 0x08, 2],
            &[0x2a, 4, 0x08, 2, 0x10, 4],
            &[0x32, 0, 0x32, 3, b'c', b'p', b'u', 0x32, 2, b'n', b's', 0x32, 1, b'a', 0x32, 1, b'b', 0x48],
        ];
        assert!(bytes.starts_with(&expected.concat()));
    }

    #[test]
    fn threads_have_names_and_times() {
        // Until it has run for as long as a processor counts.
        let mine = loop {
            let all = threads().unwrap();
            let most = all.into_values().max_by_key(|(_, time)| *time).unwrap();
            if most.1 > 0 {
                break most;
            }
        };
        assert!(!mine.0.is_empty());
    }

    #[test]
    fn memory_is_told_by_what_it_is_held_for() {
        let metrics = "# HELP x\nweir_worker_memory_bytes{worker=\"0\",kind=\"bodies\"} 100\n\
                       weir_worker_memory_bytes{worker=\"1\",kind=\"bodies\"} 28\nother{kind=\"bodies\"} 5\n";
        let told = held(metrics, "Name:\tx\nVmRSS:\t       2 kB\n");
        assert_eq!(told, BTreeMap::from([("bodies".to_owned(), 128), ("rest of the process".to_owned(), 1920)]));
    }
}
