//! The recipes of deploy/cookbook do what they say, as they are: only their ports are others.

use crate::authentication::{Service, bearer, json};
use crate::world::{Answer, Connection, Machine, eventually, free_port};
use base_model::yaml;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Where recipes are tried: a machine, and the four backends that they name.
struct Kitchen {
    machine: Machine,
    services: Vec<Service>,
    /// How many calls are answered with 500 from now on.
    failing: Arc<AtomicUsize>,
    /// What the chat's hook was told last.
    hook: Arc<Mutex<String>>,
}

#[test]
fn recipes_do_what_they_say() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("quick-start");
    assert!(kitchen.ask(door, "GET", "/pipeline", &[], "").body.starts_with("0 GET /pipeline "));

    let door = kitchen.cook("reverse-proxy");
    let cart = kitchen.ask(door, "GET", "/shop/cart", &[("X-Debug", "1")], "");
    assert!(cart.body.contains(" GET /cart ") && field(&cart, "X-Served-By") == Some("weir"), "{cart:?}");
    let head = cart.body.to_lowercase();
    assert!(head.contains("x-api-version: v2") && head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    assert!(!head.contains("x-debug"), "{head}");
    let seen: BTreeSet<char> =
        (0..60).filter_map(|_| kitchen.ask(door, "GET", "/shop/x", &[], "").body.chars().next()).collect();
    assert_eq!(seen, BTreeSet::from(['0', '1']));
    let docs =
        Connection::open(&format!("127.0.0.1:{door}")).unwrap().asking("docs.example").request("GET", "/a", &[], "");
    assert!(docs.unwrap().body.starts_with("2 GET /a "));
    assert_eq!(kitchen.ask(door, "GET", "/teapot", &[], "").status, 418);

    let door = kitchen.cook("pipeline");
    let told = kitchen.ask(door, "GET", "/", &[("Content-Type", "application/json")], "");
    assert!(told.body.starts_with("0 ") && told.body.to_lowercase().contains("x-adapt-key: goodplan"), "{told:?}");
    assert!(kitchen.ask(door, "GET", "/", &[], "").body.starts_with("1 "));
    kitchen.failing.store(1, Ordering::SeqCst);
    let sorry = kitchen.ask(door, "GET", "/", &[("Content-Type", "application/json")], "");
    assert!(sorry.status == 500 || sorry.status == 502, "{sorry:?}");
    kitchen.failing.store(0, Ordering::SeqCst);

    let door = kitchen.cook("aggregation");
    let merged: Value = serde_json::from_str(&kitchen.ask(door, "GET", "/api", &[], "").body).unwrap();
    assert_eq!(merged, json!({"of0": true, "of1": true, "same": 1}));

    let door = kitchen.cook("global-filter");
    let told = kitchen.ask(door, "GET", "/a", &[("X-Tenant", "acme")], "");
    assert_eq!((told.status, told.body.as_str(), field(&told, "X-Edge")), (200, "a", Some("weir")));
    assert_eq!(kitchen.ask(door, "GET", "/b", &[], "").status, 400);

    let door = kitchen.cook("header-variables");
    assert_eq!(kitchen.ask(door, "GET", "/show?user=ann", &[], "").body.trim(), "GET /show?user=ann of ann");
    assert_eq!(kitchen.ask(door, "GET", "/show", &[], "").body.trim(), "GET /show of nobody");

    let door = kitchen.cook("canary");
    assert!(kitchen.ask(door, "GET", "/", &[("X-Canary", "yes")], "").body.starts_with("2 "));
    assert!(kitchen.ask(door, "GET", "/", &[("Cookie", "a=b; canary=yes")], "").body.starts_with("2 "));

    let door = kitchen.cook("tracing");
    let traced = kitchen.ask(door, "GET", "/", &[], "");
    assert!(traced.body.to_lowercase().contains("traceparent: 00-"), "{traced:?}");

    let door = kitchen.cook("service-registry");
    assert!(kitchen.ask(door, "GET", "/orders", &[], "").body.starts_with("0 "), "what is written down serves");

    kitchen.cook("migrate-v1");
    assert_eq!(kitchen.machine.json("/objects/migrate-v1")["kind"], "Pipeline");
}

#[test]
fn recipes_of_several_calls_do_what_they_say() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("orchestration");
    assert_eq!(kitchen.ask(door, "POST", "/messages", &[], r#"{"text": "Guten Tag"}"#).body, "good day");
    assert_eq!(kitchen.ask(door, "POST", "/messages", &[], r#"{"text": "hello"}"#).body, "hello");

    let door = kitchen.cook("workflow");
    assert_eq!(kitchen.ask(door, "POST", "/digest", &[], "").body, "2 entries");
    let told: Value = serde_json::from_str(&kitchen.hook.lock().unwrap()).unwrap();
    assert_eq!(told, json!({"titles": ["one", "two \"quoted\""]}));

    let door = kitchen.cook("performance");
    let before = kitchen.services[0].asked();
    let first = kitchen.ask(door, "GET", "/catalogue", &[("Accept-Encoding", "identity")], "");
    let second = kitchen.ask(door, "GET", "/catalogue", &[("Accept-Encoding", "identity")], "");
    assert_eq!((first.body.as_str(), kitchen.services[0].asked() - before), (second.body.as_str(), 1));

    let door = kitchen.cook("resilience");
    // Two tries fail, the third does not.
    kitchen.failing.store(2, Ordering::SeqCst);
    assert_eq!(kitchen.ask(door, "GET", "/orders", &[], "").status, 200);
    kitchen.failing.store(usize::MAX, Ordering::SeqCst);
    let resting = eventually("the circuit opens", || {
        let answer = kitchen.ask(door, "GET", "/orders", &[], "");
        (answer.status == 503).then_some(answer)
    });
    assert_eq!((resting.body.as_str(), field(&resting, "Retry-After")), ("the shop is having a rest", Some("5")));
}

#[test]
fn recipes_of_doors_let_in_whom_they_say() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("verification");
    let status = |path: &str, headers: &[(&str, &str)]| kitchen.ask(door, "GET", path, headers, "").status;
    assert_eq!((status("/tenant", &[("X-Tenant", "acme")]), status("/tenant", &[])), (200, 400));
    // {"sub": "ann"}, signed with "secret".
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4ifQ.PjR3fgnevdXvvFDIexpV052PaeBybdsfUE102L3fkg4";
    assert_eq!(status("/token", &[("Authorization", &bearer(token))]), 200);
    assert_eq!(status("/token", &[("Cookie", &format!("auth={token}"))]), 200);
    assert_eq!(status("/token", &[("Authorization", &bearer(&token.replace("ifQ", "ifR")))]), 401);
    assert_eq!((status("/policy/public/page", &[]), status("/policy/private", &[])), (200, 403));
    assert_eq!(status("/policy/private", &[("X-Role", "admin")]), 200);

    let door = kitchen.cook("custom-data");
    let login = |pair: &str| kitchen.ask(door, "GET", "/", &[("Authorization", pair)], "");
    // ann:secret, and ann:wrong. Data reaches filters a moment after it is stored.
    let ann =
        eventually("ann is known", || Some(login("Basic YW5uOnNlY3JldA==")).filter(|answer| answer.status == 200));
    assert_eq!(ann.body, "gold");
    assert_eq!(login("Basic YW5uOndyb25n").status, 401);
}

#[test]
fn the_chat_talks_both_ways_with_pages_of_this_site_and_its_partners() {
    let (kitchen, chat) = (Kitchen::open(), chat());
    let door = kitchen.cook_with("websocket", &[("ws://127.0.0.1:9095", &format!("ws://127.0.0.1:{chat}"))]);
    for (origin, status) in [
        (None, 101),
        (Some("http://house.test"), 101),
        (Some("https://a.partner.example"), 101),
        (Some("https://partner.example.elsewhere"), 400),
        (Some("https://a.stranger.example"), 400),
    ] {
        let opened = Socket::open(door, "/ws", origin).map_or_else(|refused| refused, |_| 101);
        assert_eq!(opened, status, "{origin:?}");
    }
    let mut socket = Socket::open(door, "/ws", None).unwrap();
    for message in ["hello", "", &"x".repeat(65536)] {
        socket.say(TEXT, message.as_bytes());
        let (opcode, said) = socket.hear();
        assert!((opcode, &said[..]) == (TEXT, message.as_bytes()), "{opcode} of {} bytes", said.len());
    }
    // A message that is larger than it may be ends the talk, and says why.
    socket.say(TEXT, &[b'x'; 65537]);
    let (opcode, said) = socket.hear();
    assert_eq!((opcode, said.get(..2)), (CLOSE, Some(&1009u16.to_be_bytes()[..])));
    let mut socket = Socket::open(door, "/ws", None).unwrap();
    socket.say(CLOSE, &4001u16.to_be_bytes());
    assert_eq!(socket.hear(), (CLOSE, 4001u16.to_be_bytes().to_vec()));
    assert_eq!(kitchen.ask(door, "GET", "/elsewhere", &[], "").status, 404);
}

#[test]
fn the_flash_sale_waits_for_its_time_and_sells_what_there_is() {
    let kitchen = Kitchen::open();
    let door = kitchen.cook("flash-sale");
    let told = kitchen.ask(door, "GET", "/flashsale", &[("Accept", "application/json")], "");
    let state: Value = serde_json::from_str(&told.body).unwrap();
    assert_eq!((told.status, &state["state"]), (503, &json!("notStarted")), "{told:?}");
    assert!(field(&told, "Retry-After").is_some(), "{told:?}");
    let page = kitchen.ask(door, "GET", "/flashsale/laptop", &[("Accept", "text/html")], "");
    assert!(page.status == 503 && page.body.contains("<html"), "{page:?}");
    assert_eq!(kitchen.ask(door, "GET", "/elsewhere", &[], "").status, 404);

    // It begins, with five pieces: who came before the start is among those who get one.
    let mut users: Vec<String> = (0..8).map(|_| String::new()).collect();
    let mut bought = [false; 8];
    let buys = |cookie: &mut String| {
        let answer = kitchen.ask(door, "GET", "/flashsale", &[("Cookie", cookie), ("Accept", "application/json")], "");
        if let Some(given) = field(&answer, "Set-Cookie") {
            given.split(';').next().unwrap_or_default().clone_into(cookie);
        }
        answer
    };
    for user in &mut users {
        assert_eq!(buys(user).status, 503);
    }
    let text = recipe("flash-sale", &[]);
    let documents = yaml::parse_documents(&text).unwrap();
    let mut sale = documents.into_iter().find(|document| document["name"] == "flash-sale").unwrap();
    let room = &mut sale["filters"][0];
    room["startTime"] = json!("2026-01-01T00:00:00Z");
    room["capacity"]["stock"] = json!(5);
    room["pollInterval"] = json!("100ms");
    kitchen.machine.update("flash-sale", &sale.to_string());
    eventually("all have bought or are told that there is nothing left", || {
        let mut waits = false;
        for (user, bought) in users.iter_mut().zip(&mut bought).filter(|(_, bought)| !**bought) {
            let answer = buys(user);
            match answer.status {
                200 => {
                    assert_eq!(answer.body, "You can buy the laptop for $1 now.\n");
                    *bought = true;
                }
                410 => {}
                _ => waits = true,
            }
        }
        (!waits).then_some(())
    });
    assert_eq!(bought.iter().filter(|bought| **bought).count(), 5);
    // Whoever was let in stays so.
    let one = bought.iter().position(|bought| *bought).unwrap();
    assert_eq!(buys(&mut users[one]).status, 200);
}

/// A recipe with these parts of it changed: its ports, and where its backends are.
pub fn recipe(name: &str, changes: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../deploy/cookbook/{name}.yaml"));
    changes.iter().fold(fs::read_to_string(path).unwrap(), |text, (from, to)| {
        assert!(text.contains(from), "{name} has no {from}");
        text.replace(from, to)
    })
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// A chat that says what it hears; its port.
fn chat() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(echo(stream)));
        }
    });
    port
}

fn echo(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let key = read_head(&mut reader)?.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("Sec-WebSocket-Key").then(|| value.trim().to_owned())
    });
    // RFC 6455 section 4.2.2.
    let proof = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.unwrap_or_default());
    let proof = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, proof.as_bytes());
    let mut writer = &stream;
    write!(
        writer,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        STANDARD.encode(proof)
    )?;
    loop {
        let (opcode, said) = read_frame(&mut reader)?;
        writer.write_all(&frame(opcode, &said, false))?;
        if opcode == CLOSE {
            return Ok(());
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// A whole message, or a control frame (RFC 6455 section 5.2).
fn read_frame(reader: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let (mut first, mut whole) = (None, Vec::new());
    loop {
        let mut head = [0; 2];
        reader.read_exact(&mut head)?;
        let length = match head[1] & 0x7f {
            126 => {
                let mut length = [0; 2];
                reader.read_exact(&mut length)?;
                usize::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                reader.read_exact(&mut length)?;
                u64::from_be_bytes(length) as usize
            }
            length => usize::from(length),
        };
        let mut mask = [0; 4];
        if head[1] & 0x80 != 0 {
            reader.read_exact(&mut mask)?;
        }
        let mut said = vec![0; length];
        reader.read_exact(&mut said)?;
        whole.extend(said.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        let opcode = *first.get_or_insert(head[0] & 0x0f);
        if head[0] & 0x80 != 0 {
            return Ok((opcode, whole));
        }
    }
}

fn frame(opcode: u8, said: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match said.len() {
        length @ 0..=125 => frame.push(mask | length as u8),
        length @ 126..=0xffff => {
            frame.push(mask | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        // By zeros, which change nothing.
        frame.extend([0; 4]);
    }
    frame.extend(said);
    frame
}

/// A page's end of a WebSocket.
struct Socket {
    reader: BufReader<TcpStream>,
}

impl Socket {
    /// The status of the answer where it is not opened.
    fn open(door: u16, path: &str, origin: Option<&str>) -> Result<Socket, u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", door)).unwrap();
        stream.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();
        let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: house.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{origin}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader).unwrap();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
        if status == 101 { Ok(Socket { reader }) } else { Err(status) }
    }

    fn say(&mut self, opcode: u8, said: &[u8]) {
        // One who is told to go may have gone.
        let _ = self.reader.get_mut().write_all(&frame(opcode, said, true));
    }

    fn hear(&mut self) -> (u8, Vec<u8>) {
        read_frame(&mut self.reader).unwrap()
    }
}

impl Kitchen {
    fn open() -> Kitchen {
        let (failing, hook) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let services = (0..4).map(|n| {
            let (failing, hook) = (failing.clone(), hook.clone());
            Service::start(move |asked| {
                let fails =
                    failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                if fails {
                    return Some((500, String::new(), "down".to_owned()));
                }
                match asked.target.as_str() {
                    "/language" => json(match asked.body.contains("Guten") {
                        true => r#"{"language": "de"}"#,
                        false => r#"{"language": "en"}"#,
                    }),
                    "/translate" => json(r#"{"text": "good day"}"#),
                    "/feed.json" => json(r#"{"items": [{"title": "one"}, {"title": "two \"quoted\""}]}"#),
                    "/api" => json(format!(r#"{{"of{n}": true, "same": {n}}}"#)),
                    "/hook" => {
                        asked.body.clone_into(&mut hook.lock().unwrap());
                        json("{}")
                    }
                    _ => Some((200, String::new(), format!("{n} {}\n{}", asked.head, asked.body))),
                }
            })
        });
        let services = services.collect();
        let mut machine = Machine::new("m1").flags(["--workers", "1"]);
        machine.run();
        Kitchen { machine, services, failing, hook }
    }

    /// Applies a recipe, and says where its server listens.
    fn cook(&self, name: &str) -> u16 {
        self.cook_with(name, &[])
    }

    fn cook_with(&self, name: &str, changes: &[(&str, &str)]) -> u16 {
        let door = free_port();
        let mut text = recipe(name, changes).replace("port: 10080", &format!("port: {door}"));
        for (service, port) in self.services.iter().zip(9095..) {
            text = text.replace(&format!("http://127.0.0.1:{port}"), &service.url());
        }
        let mut objects = Vec::new();
        for document in yaml::parse_documents(&text).unwrap() {
            let name = document["name"].as_str().unwrap();
            let path = match document["kind"].as_str().unwrap() {
                "CustomDataKind" => "/customdatakinds".to_owned(),
                "CustomData" => format!("/customdata/{name}/items"),
                _ => {
                    objects.push(yaml::to_string(&document));
                    continue;
                }
            };
            let answer = self.machine.api("POST", &path, &document.to_string());
            assert!(answer.status < 300, "{name}: {answer:?}");
        }
        self.machine.create(&objects.join("---\n"));
        if text.contains("kind: HTTPServer") {
            eventually("the recipe's server listens", || TcpStream::connect(("127.0.0.1", door)).ok());
        }
        door
    }

    fn ask(&self, door: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut connection = Connection::open(&format!("127.0.0.1:{door}")).unwrap();
        connection.request(method, path, headers, body).unwrap()
    }
}

fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let mut fields = answer.head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
