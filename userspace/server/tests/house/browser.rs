//! A headless Chromium, told what to do over two pipes (the DevTools protocol): no port, no other program in between.

use crate::leash::Leashed;
use crate::world::{PATIENCE, WEIR, program};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// One window; it ends with the test.
pub struct Browser {
    says: File,
    heard: Receiver<Value>,
    next: u64,
    session: String,
    /// What went wrong in the page, in its own words.
    errors: VecDeque<String>,
    _process: Leashed,
    _directory: tempfile::TempDir,
}

impl Browser {
    /// `None`, with a remark, where there is no Chromium.
    pub fn start() -> Option<Browser> {
        let chromium = program("chromium")?;
        let directory = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = directory.path().join(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 3<\"$TO\" 4>\"$FROM\""])
            .arg(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-pipe", "--window-size=1400,1000", "--hide-scrollbars", "--lang=en-US"])
            .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
            .arg("about:blank")
            .env("TO", &to)
            .env("FROM", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Leashed::start(&mut command).unwrap();
        // Each waits until the other side is open.
        let says = OpenOptions::new().write(true).open(&to).unwrap();
        let from = File::open(&from).unwrap();
        let (sender, heard) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(from).split(0) {
                let Ok(message) = message else { return };
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Browser {
            says,
            heard,
            next: 0,
            session: String::new(),
            errors: VecDeque::new(),
            _process: process,
            _directory: directory,
        };
        let target = browser.command("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        let attached = browser.command("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.command(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Says a command, and what came of it.
    pub fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.says.write_all(format!("{message}\0").as_bytes()).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut heard = self.heard.recv_timeout(left).unwrap_or_else(|e| panic!("{method}: {e}"));
            if heard["id"] == self.next {
                assert!(heard["error"].is_null(), "{method}: {}", heard["error"]);
                return heard["result"].take();
            }
            self.note(&heard);
        }
    }

    fn note(&mut self, heard: &Value) {
        let (method, told) = (heard["method"].as_str().unwrap_or_default(), &heard["params"]);
        let wrong = match method {
            "Runtime.exceptionThrown" => told["exceptionDetails"].to_string(),
            "Runtime.consoleAPICalled"
                if ["error", "warning", "assert"].contains(&told["type"].as_str().unwrap_or_default()) =>
            {
                told["args"].to_string()
            }
            "Log.entryAdded" if told["entry"]["level"] == "error" || told["entry"]["level"] == "warning" => {
                told["entry"].to_string()
            }
            _ => return,
        };
        self.errors.push_back(wrong);
    }

    /// What has gone wrong since it was asked last.
    pub fn errors(&mut self) -> Vec<String> {
        // What came before the answer to this has been heard then.
        self.value("1");
        self.errors.drain(..).collect()
    }

    pub fn open(&mut self, url: &str) {
        let answer = self.command("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true});
        let mut answer = self.command("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].take()
    }

    /// Waits until an expression holds.
    pub fn until(&mut self, what: &str, expression: &str) {
        let until = Instant::now() + PATIENCE;
        while self.value(&format!("Boolean({expression})")) != true {
            if Instant::now() > until {
                let page = self.value("document.body.innerText");
                panic!("not in time: {what}\n{}\n{:?}", page.as_str().unwrap_or_default(), self.errors);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks what a selector finds first, which is waited for.
    pub fn click(&mut self, selector: &str) {
        let found = format!("document.querySelector({})", json!(selector));
        self.until(selector, &found);
        self.value(&format!("{found}.click()"));
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if key == "Enter" && kind == "keyDown" {
                event["text"] = "\r".into();
            }
            self.command("Input.dispatchKeyEvent", event);
        }
    }

    /// What the screen shows, as a file beside the programs: `target/screenshots/NAME.png`.
    pub fn picture(&mut self, name: &str) -> PathBuf {
        let shot = self.command("Page.captureScreenshot", json!({"format": "png"}));
        let folder = Path::new(WEIR).ancestors().nth(2).unwrap().join("screenshots");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, decoded(shot["data"].as_str().unwrap())).unwrap();
        path
    }
}

/// Base64.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        (bits, held) = (bits << 6 | u32::from(digit(byte)), held + 6);
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
