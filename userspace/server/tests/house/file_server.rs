//! Files of the machine, over connections as clients have them.

use crate::authentication::{House, NOTHING};
use crate::world::{Connection, Machine, answers, eventually, free_port, server};
use flate2::read::GzDecoder;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Longer than what is kept in memory, and than what is read at a time.
const LONG: usize = 700_000;

struct Site {
    house: House,
    door: u16,
    folder: tempfile::TempDir,
}

struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Site {
    fn start() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        tree(&root);
        let house = House::with(NOTHING);
        let files = |name: &str, fields: &str| {
            house.machine.create(&format!(
                "kind: Pipeline\nname: {name}\nfilters:\n- {{name: f, kind: FileServer, root: '{}', cache: {{bufferPoolMaxFileSize: 1000, \
                 bufferPoolSize: 100000, bufferPoolTTL: 60, cacheFileExtensionFilters: [{{extension: [css], etagMaxAge: 77}}]}}, {fields}}}\n",
                root.display()
            ));
        };
        files("all", "hidden: ['.*', /dir/secret], index: [start.html], precompressed: br gzip");
        files(
            "app",
            "tryFiles: ['{path}', '/app{path}', '=404 no such page'], rewrite: '^/app/v[0-9]+(/.*) $1', compress: gzip",
        );
        files("few", "maxOpenFiles: 1");
        let door = free_port();
        let paths = "[{pathPrefix: /app/, backend: app}, {pathPrefix: /few/, rewriteTarget: /, backend: few}, {pathPrefix: /, backend: all}]";
        house.machine.create(&format!("kind: HTTPServer\nname: t\nport: {door}\nrules: [{{paths: {paths}}}]\n"));
        answers(door, "/hello.txt", 200);
        Site { house, door, folder }
    }

    /// Read to the end of the connection, so that nothing that is too long is missed.
    fn ask(&self, method: &str, target: &str, fields: &[&str]) -> Got {
        let mut stream = TcpStream::connect(("127.0.0.1", self.door)).unwrap();
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n{fields}\r\n").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        Got { status: head[9..12].parse().unwrap(), head, body: all.split_off(end + 4) }
    }

    fn get(&self, target: &str, fields: &[&str]) -> Got {
        self.ask("GET", target, fields)
    }
}

fn long() -> Vec<u8> {
    (0..LONG).map(|n| (n / 7 % 251) as u8).collect()
}

fn tree(root: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("hello.txt", b"hello");
    write("start.html", b"<p>start");
    write("dir/start.html", b"<p>dir");
    write("dir/secret/x", b"secret");
    write(".env", b"secret");
    write("a.css", &b"p { color: red }\n".repeat(40));
    write("a.css.br", b"as if by brotli");
    write("a.css.gz", b"as if by gzip");
    write("app/page", b"page");
    write("long.bin", &long());
    fs::write(root.parent().unwrap().join("outside"), b"secret").unwrap();
    symlink("../outside", root.join("out")).unwrap();
    symlink("/etc/passwd", root.join("passwd")).unwrap();
    symlink("hello.txt", root.join("in")).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
}

#[test]
fn files_are_given_as_the_document_says() {
    let site = Site::start();
    let hello = site.get("/hello.txt", &[]);
    assert_eq!((hello.status, &*hello.text(), hello.field("content-length")), (200, "hello", Some("5")));
    assert_eq!(hello.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!((hello.field("accept-ranges"), hello.field("cache-control")), (Some("bytes"), None));
    let (etag, date) = (hello.field("etag").unwrap(), hello.field("last-modified").unwrap());
    for (method, fields, status) in [
        ("GET", vec![format!("If-None-Match: {etag}")], 304),
        ("HEAD", vec![format!("If-None-Match: \"x\", W/{etag}")], 304),
        ("GET", vec![format!("If-Modified-Since: {date}")], 304),
        ("GET", vec!["If-None-Match: \"x\"".to_owned(), format!("If-Modified-Since: {date}")], 200),
        ("GET", vec!["If-Match: \"x\"".to_owned()], 412),
        ("GET", vec![format!("If-Match: {etag}")], 200),
        ("POST", vec!["Content-Length: 0".to_owned()], 405),
    ] {
        let told = site.ask(method, "/hello.txt", &fields.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(told.status, status, "{method} {fields:?}");
        assert!(told.status == 200 || told.body.is_empty(), "{}", told.head);
        assert!(told.status != 304 || told.field("etag") == Some(etag), "{}", told.head);
        assert!(told.status != 405 || told.field("allow") == Some("GET, HEAD"), "{}", told.head);
    }
    let head = site.ask("HEAD", "/long.bin", &[]);
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, Some(&*LONG.to_string()), 0));

    for (target, status) in [
        ("/", 200),
        ("/dir/", 200),
        ("/in", 200),
        ("/none", 404),
        ("/hello.txt/", 404),
        ("/pipe", 404),
        ("/.env", 403),
        ("/dir/secret/x", 403),
        ("/dir/../.env", 403),
        ("/out", 403),
        ("/passwd", 403),
        ("/../outside", 400),
        ("/%2e%2e/outside", 400),
        ("/..%2foutside", 400),
        ("/dir%2Fstart.html", 400),
        ("/hello.txt%00", 400),
        ("/dir%2f..%2f..%2foutside", 400),
    ] {
        let told = site.get(target, &[]);
        assert_eq!(told.status, status, "{target}");
        assert!(!told.text().contains("secret") && !told.text().contains("root:"), "{target}");
    }
    let sent = site.get("/dir?a=b", &[]);
    assert_eq!((sent.status, sent.field("location")), (301, Some("/dir/?a=b")));
    assert_eq!(site.get("//dir", &[]).field("location"), Some("/dir/"), "and to no other host");

    // In another coding, and packed on the way.
    for (accepted, coding, body) in [
        ("gzip, br", Some("br"), "as if by brotli".to_owned()),
        ("br;q=0.1, gzip", Some("gzip"), "as if by gzip".to_owned()),
        ("zstd", None, "p { color: red }\n".repeat(40)),
    ] {
        let told = site.get("/a.css", &[&format!("Accept-Encoding: {accepted}")]);
        assert_eq!((told.field("content-encoding"), told.text()), (coding, body), "{accepted}");
        assert_eq!(told.field("content-type"), Some("text/css; charset=utf-8"));
        assert_eq!((told.field("cache-control"), told.field("vary")), (Some("max-age=77"), Some("Accept-Encoding")));
    }
    let packed = site.get("/app/v2/a.css", &["Accept-Encoding: gzip"]);
    assert_eq!(packed.field("content-encoding"), Some("gzip"), "{}", packed.head);
    assert!(packed.body.len() < 200);
    assert_eq!(
        (site.get("/app/v2/page", &[]).text(), site.get("/app/page", &[]).text()),
        ("page".into(), "page".into())
    );
    let none = site.get("/app/none", &[]);
    assert_eq!((none.status, &*none.text()), (404, "no such page"));

    // What is in memory is looked at.
    fs::write(site.folder.path().join("root/hello.txt"), "other").unwrap();
    eventually("the change is seen", || (site.get("/hello.txt", &[]).text() == "other").then_some(()));
    fs::remove_file(site.folder.path().join("root/hello.txt")).unwrap();
    eventually("it is gone", || (site.get("/hello.txt", &[]).status == 404).then_some(()));
    let figure = |name: &str| site.house.machine.metric(&format!("fileserver_buffer_pool_{name}")).unwrap();
    assert!(figure("hits_total") > 0.0 && figure("miss_total") > 0.0 && figure("files") > 0.0 && figure("size") > 0.0);
}

#[test]
fn long_files_are_sent_in_pieces_and_parts() {
    let site = Site::start();
    let long = long();
    assert_eq!(site.get("/long.bin", &[]).body, long);
    let part = site.get("/long.bin", &["Range: bytes=130000-400000"]);
    assert_eq!((part.status, part.field("content-range")), (206, Some("bytes 130000-400000/700000")));
    assert_eq!(part.body, long[130_000..=400_000]);
    assert_eq!(site.get("/long.bin", &["Range: bytes=-10"]).body, long[LONG - 10..]);
    let none = site.get("/long.bin", &["Range: bytes=700000-"]);
    assert_eq!((none.status, none.field("content-range"), none.body.len()), (416, Some("bytes */700000"), 0));
    let etag = part.field("etag").unwrap();
    assert_eq!(site.get("/long.bin", &["Range: bytes=0-0", &format!("If-Range: {etag}")]).body.len(), 1);
    assert_eq!(site.get("/long.bin", &["Range: bytes=0-0", "If-Range: \"x\""]).body.len(), LONG);
    for (target, all) in [("/long.bin", &long[..]), ("/a.css", &b"p { color: red }\n".repeat(40)[..])] {
        let size = all.len();
        let parts = site.get(target, &[&format!("Range: bytes=0-1,{}-", size - 3)]);
        let boundary = parts.field("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
        let media = if size == LONG { "application/octet-stream" } else { "text/css; charset=utf-8" };
        let head = |range: &str| {
            format!("\r\n--{boundary}\r\nContent-Type: {media}\r\nContent-Range: bytes {range}/{size}\r\n\r\n")
        };
        let first = head("0-1");
        let second = head(&format!("{}-{}", size - 3, size - 1));
        let want = [
            first.as_bytes(),
            &all[..2],
            second.as_bytes(),
            &all[size - 3..],
            format!("\r\n--{boundary}--\r\n").as_bytes(),
        ]
        .concat();
        assert_eq!((parts.status, parts.body == want), (206, true), "{}", parts.text());
        assert_eq!(parts.field("content-length"), Some(&*want.len().to_string()));
    }
}

#[test]
fn a_client_that_takes_its_time_holds_its_own_file_and_no_worker() {
    let site = Site::start();
    let path = site.folder.path().join("root/huge.bin");
    fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
    let mut slow = Connection::open(&format!("127.0.0.1:{}", site.door)).unwrap();
    slow.send("GET", "/few/huge.bin", &[], "").unwrap();
    eventually("its file is open", || (site.get("/few/huge.bin", &["Range: bytes=0-0"]).status == 503).then_some(()));
    assert!(site.house.limit("file_server_open_files") >= 1.0);
    // The one worker goes on, with files that are in memory and with others.
    assert_eq!(
        (site.get("/few/hello.txt", &[]).text(), site.get("/long.bin", &[]).body.len()),
        ("hello".to_owned(), LONG)
    );
    drop(slow);
    eventually("the file is closed", || (site.get("/few/huge.bin", &["Range: bytes=0-0"]).status == 206).then_some(()));
}

#[test]
fn what_is_packed_on_the_way_is_the_file() {
    let site = Site::start();
    let packed = site.get("/app/v1/a.css", &["Accept-Encoding: gzip"]);
    let bytes = if packed.field("transfer-encoding").is_some() { unchunked(&packed.body) } else { packed.body };
    let mut plain = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut plain).unwrap();
    assert_eq!(plain, "p { color: red }\n".repeat(40));
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return all;
        }
        all.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
}

/// However many files a document lets be open: the last descriptors of the process are for what is no traffic.
#[test]
fn files_take_nothing_that_is_set_aside_for_the_admin_api() {
    let folder = tempfile::tempdir().unwrap();
    // More than the buffers of a connection hold.
    fs::File::create(folder.path().join("long")).unwrap().set_len(64 << 20).unwrap();
    fs::write(folder.path().join("short"), "short").unwrap();
    let mut machine = Machine::new("m1").flags(["--workers", "1"]).descriptors(256);
    machine.run();
    let door = free_port();
    machine.create(&format!(
        "kind: Pipeline\nname: p\nfilters:\n- {{name: f, kind: FileServer, root: '{}', maxOpenFiles: 60000}}\n",
        folder.path().display()
    ));
    machine.create(&server("s", door, "p"));
    answers(door, "/short", 200);
    let mut clients: Vec<Connection> =
        (0..130).map(|_| Connection::open(&format!("127.0.0.1:{door}")).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.request("GET", "/short", &[], "").unwrap().status, 200);
    }
    for client in &mut clients {
        client.send("GET", "/long", &[], "").unwrap();
    }
    let limit = "weir_limit_hits_total{limit=\"file_server_open_files\"}";
    eventually("descriptors are short", || machine.metric(limit).filter(|hits| *hits > 0.0));
    assert_eq!(machine.api("GET", "/healthz", "").status, 200);
    let refused = machine.metric(limit).unwrap();
    assert!((10.0..129.0).contains(&refused), "{refused} of 130 are refused");
    drop(clients);
    eventually("files are given again", || {
        let mut client = TcpStream::connect(("127.0.0.1", door)).ok()?;
        client.write_all(b"HEAD /long HTTP/1.1\r\nHost: h.test\r\n\r\n").ok()?;
        let mut head = [0; 12];
        client.read_exact(&mut head).ok()?;
        head.ends_with(b"200").then_some(())
    });
}
