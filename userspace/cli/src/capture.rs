//! `capture`: packets and what the kernel's programs do with them, on the terminal or as a file for tcpdump and Wireshark.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Capture, Format};
use crate::documents::word;
use crate::output::try_print;
use crate::server::{Server, segment};
use crate::tap::print_line;

mod pcapng;

/// Shows packets until there were enough, the time is over, or somebody ends it.
pub async fn capture(server: &Server, asked: &Capture, format: Format) -> Result<(), String> {
    let mut shown = Shown::new(asked, format);
    let interrupted = async {
        let signals = signal(SignalKind::interrupt()).and_then(|one| Ok((one, signal(SignalKind::terminate())?)));
        match signals {
            Ok((mut interrupt, mut terminate)) => {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            }
            Err(_) => std::future::pending().await,
        }
    };
    let path = format!("/capture?{}", query(asked));
    let streamed = tokio::select! {
        streamed = server.stream(&path, |bytes| shown.take(bytes)) => streamed,
        () = interrupted => Ok(()),
    };
    // What came until then is a whole file.
    let finished = shown.finish(streamed.is_ok());
    streamed.and(finished)
}

fn query(asked: &Capture) -> String {
    let texts = [
        ("vip", &asked.vip),
        ("reason", &asked.reason),
        ("source", &asked.source),
        ("flow", &asked.flow),
        ("to", &asked.to),
        ("member", &asked.member),
        ("for", &asked.r#for),
    ];
    let mut query: Vec<String> =
        texts.iter().filter_map(|(key, text)| Some(format!("{key}={}", segment(text.as_ref()?)))).collect();
    query.extend(asked.rate.map(|rate| format!("rate={rate}")));
    query.extend(asked.snap.map(|snap| format!("snap={snap}")));
    query.extend(asked.count.map(|count| format!("count={count}")));
    query.extend(asked.bytes.map(|bytes| format!("bytes={bytes}")));
    query.join("&")
}

/// What was shown, and where.
struct Shown<'a> {
    asked: &'a Capture,
    format: Format,
    /// The beginning of a line whose end is to come.
    rest: Vec<u8>,
    file: Option<pcapng::Writer<Box<dyn Write>>>,
    packets: u64,
    /// By machine.
    missed: BTreeMap<String, u64>,
    ended: Option<String>,
    failed: Option<String>,
    /// Nobody takes what is written any more.
    left: bool,
}

impl<'a> Shown<'a> {
    fn new(asked: &'a Capture, format: Format) -> Shown<'a> {
        Shown {
            asked,
            format,
            rest: Vec::new(),
            file: None,
            packets: 0,
            missed: BTreeMap::new(),
            ended: None,
            failed: None,
            left: false,
        }
    }

    /// False: it is over.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = self.rest.drain(..=end).collect();
            let Ok(line) = serde_json::from_slice::<Value>(&text) else { continue };
            if let Some(missed) = line["missed"].as_u64() {
                *self.missed.entry(word(&line, "machine").to_owned()).or_default() += missed;
            } else if let Some(why) = line["ended"].as_str() {
                self.ended = Some(why.to_owned());
            } else if let Some(warning) = line["warning"].as_str() {
                eprintln!("{}: {warning}", word(&line, "machine"));
            } else if let Err(error) = self.packet(&line) {
                // Whoever read has seen enough.
                self.failed = (error.kind() != io::ErrorKind::BrokenPipe).then(|| self.cannot(&error));
                self.file = None;
                self.left = true;
                return false;
            }
        }
        true
    }

    fn packet(&mut self, line: &Value) -> io::Result<()> {
        self.packets += 1;
        if self.asked.write.is_none() {
            return match self.format {
                Format::Default => try_print(&row(line)),
                format => print_line(line, format),
            };
        }
        let frame = BASE64_STANDARD.decode(word(line, "frame")).map_err(io::Error::other)?;
        let number = |key: &str| line[key].as_u64().unwrap_or_default();
        let action = match word(line, "verdict") {
            "drop" => 1,
            "pass" => 2,
            _ => 3,
        };
        let comment = comment(line);
        self.file()?.packet(&pcapng::Packet {
            machine: word(line, "machine"),
            interface: word(line, "interface"),
            queue: number("queue") as u32,
            nanoseconds: number("seconds") * 1_000_000_000 + number("nanoseconds"),
            action,
            length: number("bytes") as u32,
            frame: &frame,
            comment: &comment,
        })
    }

    /// Opened with the first packet, so that a question that is refused leaves no file. Only its owner reads what clients sent.
    fn file(&mut self) -> io::Result<&mut pcapng::Writer<Box<dyn Write>>> {
        if self.file.is_none() {
            let path = self.asked.write.as_deref().unwrap_or(Path::new("-"));
            let out: Box<dyn Write> = match path.to_str() {
                Some("-") => Box::new(io::stdout()),
                _ => Box::new(for_its_owner(path)?),
            };
            let application = concat!("weirctl ", env!("CARGO_PKG_VERSION"));
            self.file = Some(pcapng::Writer::new(out, self.asked.snap.unwrap_or(SNAP), application)?);
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("no file"))
    }

    fn cannot(&self, error: &io::Error) -> String {
        let path = self.asked.write.as_deref().unwrap_or(Path::new("-"));
        format!("{}: cannot be written: {error}", path.display())
    }

    fn finish(mut self, well: bool) -> Result<(), String> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        // To open a pipe again would wait for somebody to read it.
        if well && self.asked.write.is_some() && !self.left {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
            let opened = self.file().map(drop);
            let file = self.file.take();
            let written = opened.and_then(|()| file.map_or(Ok(()), |file| file.finish(now, &self.missed)));
            match written {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(self.cannot(&error)),
                _ => {}
            }
        }
        for (machine, missed) in &self.missed {
            eprintln!("{machine}: {missed} more were not shown; a filter or --rate helps");
        }
        if well {
            let ended = self.ended.map(|why| format!("; {why}")).unwrap_or_default();
            eprintln!("{} packets{ended}", self.packets);
        }
        Ok(())
    }
}

/// A file that only its owner reads, whoever could read it before; a device or a pipe is left as it is.
fn for_its_owner(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// What is known of a packet, as it stands beside it in the file.
fn comment(packet: &Value) -> String {
    let owners: Vec<&str> = packet["owners"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let number = |key: &str| packet[key].as_u64().map(|number| number.to_string()).unwrap_or_default();
    let parts = [
        ("verdict", word(packet, "verdict").to_owned()),
        ("reason", word(packet, "reason").to_owned()),
        ("vip", word(packet, "virtualIP").to_owned()),
        ("slot", number("slot")),
        ("owners", owners.join(",")),
        ("machine", word(packet, "to").to_owned()),
        ("hop", number("hop")),
        ("epoch", number("epoch")),
        ("at", word(packet, "machine").to_owned()),
    ];
    let told = parts.iter().filter(|(_, text)| !text.is_empty());
    told.map(|(key, text)| format!("{key}={text}")).collect::<Vec<_>>().join(" ")
}

/// One packet on one line.
fn row(packet: &Value) -> String {
    let seconds = packet["seconds"].as_u64().unwrap_or_default() % 86_400;
    let clock = [seconds / 3600, seconds / 60 % 60, seconds % 60].map(|part| format!("{part:02}")).join(":");
    let micros = packet["nanoseconds"].as_u64().unwrap_or_default() / 1_000;
    let (protocol, source) = (word(packet, "protocol"), word(packet, "source"));
    let ends = match source {
        "" => "not IP".to_owned(),
        _ => format!("{protocol} {source} > {}", word(packet, "destination")).trim_start().to_owned(),
    };
    format!("{clock}.{micros:06}Z  {ends}  {} bytes  {}", packet["bytes"], comment(packet))
}

/// What the server keeps of each packet unless it is told otherwise.
const SNAP: u32 = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_packet_is_told_with_everything_that_is_known() {
        let packet = json!({
            "seconds": 1_767_323_045, "nanoseconds": 678_901_234, "machine": "edge-1", "interface": "eth0", "queue": 0,
            "verdict": "transmit", "reason": "forwarded", "virtualIP": "shop", "slot": 7, "owners": ["edge-2", "edge-1"],
            "to": "edge-2", "hop": 1, "epoch": 3, "protocol": "tcp", "source": "192.0.2.1:4000",
            "destination": "198.51.100.1:80", "arrivedBytes": 60, "bytes": 108,
        });
        let told = "verdict=transmit reason=forwarded vip=shop slot=7 owners=edge-2,edge-1 machine=edge-2 hop=1 epoch=3 at=edge-1";
        assert_eq!(comment(&packet), told);
        assert_eq!(row(&packet), format!("03:04:05.678901Z  tcp 192.0.2.1:4000 > 198.51.100.1:80  108 bytes  {told}"));
        let none = json!({"machine": "m", "verdict": "pass", "reason": "not_ip", "hop": 0, "bytes": 60, "slot": null, "to": null});
        assert_eq!(row(&none), "00:00:00.000000Z  not IP  60 bytes  verdict=pass reason=not_ip hop=0 at=m");
    }

    fn line() -> Vec<u8> {
        let packet = json!({"machine": "m", "interface": "eth0", "verdict": "drop", "bytes": 60, "frame": "AAAAAAAA"});
        format!("{packet}\n").into_bytes()
    }

    #[test]
    fn only_its_owner_reads_a_file_that_was_there_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.pcapng");
        std::fs::write(&path, "what was there").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let asked = Capture { write: Some(path.clone()), ..Capture::default() };
        let mut shown = Shown::new(&asked, Format::Default);
        assert!(shown.take(&line()));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        shown.finish(true).unwrap();
        assert!(std::fs::read(&path).unwrap().starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    }

    #[test]
    fn a_pipe_whose_reader_has_left_is_not_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (done, finished) = std::sync::mpsc::channel();
        let reads = path.clone();
        let writer = std::thread::spawn(move || {
            let asked = Capture { write: Some(path), ..Capture::default() };
            let mut shown = Shown::new(&asked, Format::Default);
            while shown.take(&line()) {}
            let _ = done.send(shown.finish(true));
        });
        let mut reader = File::open(reads).unwrap();
        std::io::Read::read_exact(&mut reader, &mut [0; 64]).unwrap();
        drop(reader);
        let finished = finished.recv_timeout(std::time::Duration::from_secs(60));
        finished.expect("it does not wait for another reader").expect("it has seen enough");
        writer.join().unwrap();
    }
}
