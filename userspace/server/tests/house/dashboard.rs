//! The dashboard, in a headless Chromium: navigation, live figures, a login and a change, what goes wrong, and who cannot see it.

use crate::browser::Browser;
use crate::world::{Backend, Connection, Machine, WEIR, answers, eventually, free_port, proxy, server};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VIEWS: [(&str, &str); 7] = [
    ("machines", "Machines"),
    ("vips", "Virtual IPs"),
    ("servers", "Servers"),
    ("pipelines", "Pipelines and pools"),
    ("sale", "Flash sale"),
    ("events", "Events"),
    ("config", "Configuration"),
];

/// A site with a server, a pool, a room and a virtual IP.
fn site() -> (Machine, Backend, u16) {
    let (machine, backend, port) = (Machine::start(), Backend::start("shop"), free_port());
    machine.create(&proxy("pl", &[backend.url()]));
    machine.create(&server("web", port, "pl"));
    machine.create("kind: VirtualIP\nname: shop\naddresses: [203.0.113.10]\nports: [80]\n");
    let room = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/WaitingRoom.yaml"));
    for document in room.unwrap().split("\n---\n").filter(|document| document.contains("kind: Pipeline")) {
        machine.create(document);
    }
    answers(port, "/", 200);
    (machine, backend, port)
}

fn head(answer: &crate::world::Answer, name: &str) -> String {
    let is = |line: &&str| line.split(':').next().is_some_and(|known| known.eq_ignore_ascii_case(name));
    let line = answer.head.lines().find(is).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim()).to_owned()
}

#[test]
fn its_files_are_for_everybody_and_allow_nothing_from_elsewhere() {
    let mut machine = Machine::new("m1").flags(["-f", "weir.yaml"]);
    fs::write(machine.directory.join("weir.yaml"), "basic-auth: {ann: secret}\n").unwrap();
    machine.spawn();
    let ask = |path: &str, fields: &[(&str, &str)]| {
        eventually("it answers", || {
            let mut connection = Connection::open(&format!("127.0.0.1:{}", machine.api)).ok()?.by_address();
            connection.request("GET", path, fields, "").ok()
        })
    };
    for file in ["/dashboard", "/dashboard/app.js", "/dashboard/style.css"] {
        let answer = ask(file, &[]);
        assert_eq!(answer.status, 200, "{file}");
        let policy = head(&answer, "content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains('*'),
            "{policy}"
        );
        assert_eq!(
            (head(&answer, "x-content-type-options"), head(&answer, "x-frame-options")),
            ("nosniff".into(), "DENY".into())
        );
        let again = ask(file, &[("If-None-Match", &head(&answer, "etag"))]);
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
    for closed in ["/apis/v2/overview", "/apis/v2/whoami", "/dashboard/else", "/dashboard/../apis/v2/objects"] {
        assert_eq!(ask(closed, &[]).status, 401, "{closed}");
    }
    // ann:secret
    let login = ("Authorization", "Basic YW5uOnNlY3JldA==");
    eventually("it is up", || (ask("/apis/v2/overview", &[login]).status == 200).then_some(()));
    let me: Value = serde_json::from_str(&ask("/apis/v2/whoami", &[login]).body).unwrap();
    assert_eq!((&me["name"], &me["mayWrite"]), (&"ann".into(), &true.into()));
    let front = ask("/", &[login, ("Accept", "text/html,*/*")]);
    assert_eq!((front.status, head(&front, "location")), (303, "/dashboard".into()));
    assert!(ask("/", &[login]).body.contains("/apis/v2/objects"), "programs get the list of paths");
}

#[test]
fn every_view_is_live_and_can_be_used_by_everybody() {
    let (mut machine, _backend, port) = site();
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&format!("http://127.0.0.1:{}/", machine.api));
    browser.until(
        "the page is there",
        "document.querySelector('main h1')?.textContent === 'Machines' && document.querySelector('main table')",
    );
    assert_eq!(browser.value("location.pathname"), "/dashboard");
    browser.until("the machine is shown", "document.querySelector('main').innerText.includes('m1')");
    browser.until("it leads", "document.querySelector('main').innerText.includes('leader')");

    // With the keyboard alone: past the navigation, to the content.
    browser.press("Tab", 9);
    assert_eq!(browser.value("document.activeElement.className"), "skip");
    browser.press("Enter", 13);
    browser.until("the content has the focus", "document.activeElement.id === 'content'");
    browser.value("history.replaceState(null, '', '/dashboard')");

    let axe = axe();
    for (view, title) in VIEWS {
        browser.click(&format!("nav a[href='#/{view}']"));
        browser.until(title, &format!("document.querySelector('main h1').textContent === '{title}' && document.querySelector('main').getAttribute('aria-busy') === 'false'"));
        assert_eq!(
            browser.value("document.querySelector('nav [aria-current=page]').getAttribute('href')"),
            format!("#/{view}")
        );
        assert_eq!(browser.value("document.activeElement.id"), "content", "whoever listens hears where they are");
        let mut backs = Vec::new();
        for scheme in ["light", "dark"] {
            let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            browser.command("Emulation.setEmulatedMedia", features);
            backs.push(browser.value("getComputedStyle(document.documentElement).backgroundColor"));
            if let Some(axe) = &axe {
                assert_eq!(findings(&mut browser, axe), Vec::<String>::new(), "{view}, {scheme}");
            }
            let picture = browser.picture(&format!("dashboard-{view}-{scheme}"));
            println!("{}", picture.display());
        }
        assert_ne!(backs[0], backs[1], "light and dark are different");
    }
    // A narrow screen scrolls tables, not the page.
    let size = json!({"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": false});
    browser.command("Emulation.setDeviceMetricsOverride", size);
    browser.value("location.hash = '#/servers'");
    browser.until("servers", "document.querySelector('main h1').textContent === 'Servers'");
    assert_eq!(browser.value("document.documentElement.scrollWidth <= 380"), true);
    browser.command("Emulation.clearDeviceMetricsOverride", json!({}));

    // Figures move by themselves, and what has the focus keeps it.
    let shown = "Number([...document.querySelectorAll('tr')].find((row) => row.cells.length === 6 && row.cells[1].textContent === '/')?.cells[2].textContent ?? 0)";
    browser.until("there is a row", &format!("{shown} > 0"));
    let before = browser.value(shown).as_f64().unwrap();
    browser.value("document.querySelector('main .scroll').focus()");
    (0..20).for_each(|_| drop(answers(port, "/", 200)));
    browser.until("more answers are shown", &format!("{shown} >= {}", before + 20.0));
    assert_eq!(browser.value("document.activeElement.className"), "scroll");

    // What clients send is text here, and nothing else.
    machine.create(&proxy("dead", &["http://127.0.0.1:1".to_owned()]));
    machine.update("web", &server("web", port, "dead"));
    let hostile = "/x?<img%20src=x%20onerror=alert(1)>";
    eventually("it fails", || {
        let mut connection = Connection::open(&format!("127.0.0.1:{port}")).ok()?;
        (connection.request("GET", hostile, &[], "").ok()?.status == 503).then_some(())
    });
    browser.value("location.hash = '#/events'");
    browser.until("the failure is told", "document.querySelector('main').innerText.includes('onerror=alert')");
    assert_eq!(browser.value("document.querySelectorAll('main img, main script').length"), 0);
    assert_eq!(browser.errors(), Vec::<String>::new());

    // The machine goes away and comes back.
    machine.kill();
    browser.until("that is said", "!document.getElementById('trouble').hidden && document.getElementById('trouble').innerText.includes('does not answer')");
    assert_eq!(browser.value("document.getElementById('trouble').getAttribute('role')"), "alert");
    assert_eq!(browser.value("document.querySelector('main h1').textContent"), "Events", "what is known stays");
    browser.picture("dashboard-trouble");
    browser.errors();
    machine.run();
    browser.until(
        "it is live again",
        "document.getElementById('trouble').hidden && document.getElementById('state').innerText === 'Live'",
    );
}

#[test]
fn changes_are_behind_a_login_that_may_make_them() {
    let (machine, _backend, _port) = site();
    let token = |name: &str, role: &str| {
        let document = json!({"name": name, "grants": [{"role": role}]}).to_string();
        let answer = machine.api("POST", "/tokens", &document);
        assert_eq!(answer.status, 201, "{answer:?}");
        let made: Value = serde_json::from_str(&answer.body).unwrap();
        made["token"].as_str().unwrap().to_owned()
    };
    let (reader, writer) = (token("reader", "read"), token("writer", "write"));
    let Some(mut browser) = Browser::start() else { return };
    let open_document = |browser: &mut Browser| {
        browser.until(
            "objects are listed",
            "[...document.querySelectorAll('main td, main th')].some((cell) => cell.textContent === 'pl')",
        );
        browser.value(
            "[...document.querySelectorAll('main button')].find((button) => button.textContent === 'pl').click()",
        );
        browser.until(
            "the document is shown",
            "document.querySelector('main pre')?.textContent.includes('kind: Pipeline')",
        );
    };
    let buttons = "[...document.querySelectorAll('main button')].map((button) => button.textContent)";
    browser.open(&format!("http://127.0.0.1:{}/dashboard#/config", machine.api));
    open_document(&mut browser);
    let log_in = |browser: &mut Browser, secret: &str| {
        browser.click("#login");
        browser.until("a login is asked for", "document.getElementById('login-dialog').open");
        browser.value(&format!("document.getElementById('login-secret').value = {}", json!(secret)));
        browser.click("#login-go");
    };
    let has = |browser: &mut Browser, text: &str| browser.value(&format!("{buttons}.includes('{text}')")) == true;
    assert!(!has(&mut browser, "Edit"), "without a login it may be looked at");
    assert_eq!(browser.errors(), Vec::<String>::new());

    log_in(&mut browser, "weir_nobody");
    browser.until("that is refused", "document.getElementById('login-trouble').textContent.includes('not known')");
    browser.click("#login-cancel");
    log_in(&mut browser, &reader);
    browser.until("it is known", "document.getElementById('who').textContent.includes('reader')");
    browser.until("it may read", "document.querySelector('main').innerText.includes('This login may read')");
    assert!(!has(&mut browser, "Edit"));
    browser.click("#login");
    browser.until("it is forgotten", "document.getElementById('who').textContent === 'read only'");

    log_in(&mut browser, &writer);
    browser.until("it may write", &format!("{buttons}.includes('Edit')"));
    browser.errors();
    browser
        .value("[...document.querySelectorAll('main button')].find((button) => button.textContent === 'Edit').click()");
    browser.until("it can be written", "document.activeElement.id === 'document-text'");
    let press = |browser: &mut Browser, text: &str| {
        browser.value(&format!(
            "[...document.querySelectorAll('main button')].find((button) => button.textContent === '{text}').click()"
        ));
    };
    // What is being written stays through the figures that come meanwhile.
    browser.value("document.getElementById('document-text').value += '\\nfilters: 7'");
    press(&mut browser, "Check");
    browser.until(
        "it is refused in the API's words",
        "document.querySelector('main [role=alert]').textContent.includes('filters')",
    );
    browser.until("time goes by", "new Promise((done) => setTimeout(() => done(true), 3000))");
    assert_eq!(browser.value("document.getElementById('document-text').value.endsWith('filters: 7')"), true);
    browser.value("document.getElementById('document-text').value = document.getElementById('document-text').value.replace('\\nfilters: 7', '') + '\\ndata: {colour: red}\\n'");
    press(&mut browser, "Save");
    browser.until("it is saved", "document.querySelector('main').innerText.includes('saved as version')");
    assert_eq!(machine.json("/objects/pl")["data"]["colour"], "red");
    let last = machine.json("/history")[0].clone();
    assert!(last["by"].to_string().contains("writer"), "{last}");
    // The way back, after a question.
    browser.until("it may be rolled back", &format!("{buttons}.some((text) => text.startsWith('Roll back'))"));
    browser.value("[...document.querySelectorAll('main button')].find((button) => button.textContent.startsWith('Roll back')).click()");
    browser.click("#ask-yes");
    browser.until("it is rolled back", "document.querySelector('main').innerText.includes('rolled back to version')");
    assert_eq!(machine.json("/objects/pl")["data"]["colour"], Value::Null);
    // Nothing is kept of the login beyond the tab.
    assert_eq!(browser.value("Object.keys(localStorage).length + document.cookie.length"), 0);
    assert!(browser.errors().iter().all(|error| error.contains("400")), "but for the refusal, nothing was wrong");
}

/// axe-core, from npm.
fn axe() -> Option<String> {
    let folder = Path::new(WEIR).ancestors().nth(2)?.join("tools");
    let file: PathBuf = folder.join("axe-4.13.0.js");
    if !file.is_file() {
        let npm = crate::world::program("npm")?;
        fs::create_dir_all(&folder).ok()?;
        let place = tempfile::tempdir_in(&folder).ok()?;
        let run = |program: &Path, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .current_dir(place.path())
                .output()
                .is_ok_and(|done| done.status.success())
        };
        let had = run(&npm, &["pack", "--silent", "axe-core@4.13.0"])
            && run(Path::new("tar"), &["xzf", "axe-core-4.13.0.tgz"])
            && fs::rename(place.path().join("package/axe.min.js"), &file).is_ok();
        if !had {
            println!("left out: axe-core could not be had from npm, so that accessibility is not looked at");
        }
    }
    fs::read_to_string(file).ok()
}

/// What axe finds wrong with the page as it is, by the rules of WCAG 2.2 A and AA and its best practices.
fn findings(browser: &mut Browser, axe: &str) -> Vec<String> {
    if browser.value("typeof axe") != "object" {
        browser.value(&format!("{axe}; 1"));
    }
    let found = browser.value(
        "axe.run(document).then((found) => found.violations.map((rule) => `${rule.id}: ${rule.nodes.slice(0, 3).map((node) => node.html).join(' ')}`))",
    );
    found.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}
