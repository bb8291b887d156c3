//! rsyslog, over TCP and within TLS.

use super::{Guarded, TRACE, ask, logged, numbers, on_disk, signal, start, until_told};
use crate::leash::Leashed;
use crate::parts;
use crate::world::{Machine, eventually, free_port, get, within};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// One of it, which writes the messages it takes to a file.
struct Rsyslog {
    program: PathBuf,
    libraries: PathBuf,
    port: u16,
    directory: tempfile::TempDir,
}

impl Rsyslog {
    /// With these it takes TLS only, of who shows a certificate for `edge`.
    fn new(guarded: Option<&Guarded>) -> Option<Rsyslog> {
        let (program, libraries) = parts::rsyslog()?;
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let at = directory.path().display();
        let (mut global, mut input) = (String::new(), String::new());
        if let Some(guarded) = guarded {
            guarded.write(directory.path());
            for (name, file) in [("CA", "ca"), ("Cert", "cert"), ("Key", "key")] {
                global += &format!(" defaultNetstreamDriver{name}File=\"{at}/{file}.pem\"");
            }
            input += " streamDriver.name=\"gtls\" streamDriver.mode=\"1\" streamDriver.authMode=\"x509/name\" permittedPeer=[\"edge\"]";
        }
        let text = format!(
            "global(workDirectory=\"{at}\"{global})\nmodule(load=\"imtcp\"{input})\ntemplate(name=\"t\" type=\"string\" \
             string=\"%syslogfacility-text% %syslogseverity-text% %hostname% %app-name% %msgid% %msg%\\n\")\nruleset(name=\"r\") {{ \
             action(type=\"omfile\" file=\"{at}/lines\" template=\"t\") }}\ninput(type=\"imtcp\" address=\"127.0.0.1\" \
             port=\"{port}\" ruleset=\"r\")\n",
        );
        fs::write(directory.path().join("conf"), text).unwrap();
        Some(Rsyslog { program, libraries, port, directory })
    }

    fn start(&self) -> Leashed {
        let at = self.directory.path();
        let mut command = Command::new(&self.program);
        command.arg("-n").arg("-f").arg(at.join("conf")).arg("-i").arg(at.join("pid"));
        command.arg("-M").arg(self.libraries.join("rsyslog")).env("LD_LIBRARY_PATH", &self.libraries);
        start(&mut command, &at.join("out"))
    }

    fn lines(&self) -> String {
        fs::read_to_string(self.directory.path().join("lines")).unwrap_or_default()
    }

    /// Waits until it has so many, which are then in their order.
    fn has(&self, machine: &Machine, count: usize) {
        let there = || (numbers(&self.lines(), "GET /n-").len() >= count).then_some(());
        let said = || fs::read_to_string(self.directory.path().join("out")).unwrap_or_default();
        assert!(within(crate::world::PATIENCE, there).is_some(), "{}\n{}\n{}", machine.log(), said(), self.lines());
        assert_eq!(numbers(&self.lines(), "GET /n-"), (0..count).collect::<Vec<_>>(), "in their order");
    }
}

fn sink(scheme: &str, port: u16) -> Value {
    json!({"syslog": {"address": format!("{scheme}://127.0.0.1:{port}"), "facility": "local3", "appName": "shop"}})
}

/// The daemon is killed while nobody is there; then rsyslog is, hangs, is killed with what it was sent, and is there again.
fn away_hangs_and_killed(rsyslog: &Rsyslog, machine: &mut Machine, shop: u16) -> Leashed {
    ask(shop, TRACE, 0..20);
    on_disk(machine, 20);
    machine.kill();
    machine.run();
    let running = rsyslog.start();
    rsyslog.has(machine, 20);
    let text = rsyslog.lines();
    let line = text.lines().find(|line| line.ends_with("GET /n-7")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["local3", "info", "m1", "shop", "access", "GET", "/n-7"]);
    // What it is sent while it hangs is in its buffers, and goes with it.
    eventually("it serves again", || get(shop, "/up").ok());
    signal(&running, "STOP");
    let delivered = || machine.metric("weir_log_sink_delivered_total{sink=\"log\"}").unwrap_or_default();
    let nothing_waits = || (machine.metric("weir_log_sink_spool_bytes{sink=\"log\"}")? == 0.0).then_some(());
    eventually("nothing waits", nothing_waits);
    let before = delivered();
    ask(shop, TRACE, 20..40);
    eventually("it has them, as far as anybody can tell", || (delivered() >= before + 20.0).then_some(()));
    drop(running);
    let running = rsyslog.start();
    ask(shop, TRACE, 40..60);
    rsyslog.has(machine, 60);
    running
}

#[test]
fn rsyslog_takes_lines_also_those_it_was_killed_with() {
    let Some(rsyslog) = Rsyslog::new(None) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true"]);
    machine.run();
    let shop = logged(&machine, &[("log", sink("tcp", rsyslog.port))]);
    drop(away_hangs_and_killed(&rsyslog, &mut machine, shop));
}

/// Within TLS (RFC 5425) the same, of whom it knows, and nothing of others.
#[test]
fn rsyslog_takes_lines_within_tls_of_whom_it_knows() {
    let guarded = Guarded::new();
    let Some(rsyslog) = Rsyslog::new(Some(&guarded)) else { return };
    let mut machine = Machine::new("m1").flags(["--disable-access=true", "--workers", "1"]);
    machine.run();
    let [known, unnamed, careful, strange] = guarded.mtls();
    let with = |mtls: &Value, app: &str| {
        let mut sink = sink("tls", rsyslog.port);
        sink["syslog"]["mtls"] = mtls.clone();
        sink["syslog"]["appName"] = app.into();
        sink
    };
    let sinks = [
        ("log", with(&known, "shop")),
        ("unnamed", with(&unnamed, "unnamed")),
        ("careful", with(&careful, "careful")),
        ("strange", with(&strange, "strange")),
        ("open", {
            let mut open = sink("tcp", rsyslog.port);
            open["syslog"]["appName"] = "open".into();
            open
        }),
    ];
    let shop = logged(&machine, &sinks);
    let _running = away_hangs_and_killed(&rsyslog, &mut machine, shop);
    until_told(&machine, "careful", "not signed by any of the authorities");
    for name in ["unnamed", "strange", "open"] {
        let up = || machine.metric(&format!("weir_log_sink_up{{sink=\"{name}\"}}"));
        eventually("it takes nothing of those it does not know", || (up()? == 0.0).then_some(()));
    }
    let text = rsyslog.lines();
    for name in ["unnamed", "careful", "strange", "open"] {
        assert!(!text.contains(&format!(" {name} access ")), "{name}: {text}");
    }
    let shown = machine.api("GET", "/objects", "").body;
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}
