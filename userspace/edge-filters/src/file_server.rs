//! Gives files of this machine.
//!
//! Use it for what a site is made of, beside the pipelines that lead to backends: no server of its own is needed for them.
//!
//! ```yaml
//! name: files
//! kind: FileServer
//! root: /srv/www
//! precompressed: br gzip              # app.js.br, app.js.gz
//! hidden: [".*", "*.bak"]
//! tryFiles: ["{path}", /index.html]   # an application of one page
//! cache:
//!   cacheFileExtensionFilters:
//!   - {extension: [.js, .css], etagMaxAge: 86400}
//! ```
//!
//! `GET /app.js` gives `/srv/www/app.js` with its type, `ETag` and `Last-Modified`; conditions and ranges, also several at once, are answered
//! as RFC 9110 says. A path that ends with a slash is a directory and gives its index; without the slash the client is sent to it (301).
//! Nothing outside of `root` is given: dots, encoded slashes and NUL in a path are refused (400), as are symbolic links that lead out of it or
//! begin with a slash (403). `root` itself may be a symbolic link, and may be switched at any time. Only plain files are given, never pipes and
//! devices.
//!
//! Files are read on threads of their own. Short ones are kept in memory and looked at on the disk once a second; long ones are sent as the
//! client takes them, 128 KiB at a time.
//!
//! Outcomes: `notFound` (404), `clientError` (400, 403, 405, 412, 416), `serverError` (too many files are open, or looks at the disk wait: 503),
//! `internalError` (the disk or `root` fails: 500). Counted: `file_server_open_files`, `file_server_looks`. Fits HTTPServer. Costs some
//! microseconds for a file in memory, and two changes of threads for others.

mod body;
mod conditions;
mod find;
mod pool;
mod types;

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, unexpected};
use crate::{coding, disk, proxy};
use base_model::problem::{at, nth, one_of};
use base_model::{Findings, Problem};
use base_telemetry::Limit;
use body::{FileBody, Part};
use bytes::Bytes;
use conditions::{Facts, Wanted};
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use find::{CODINGS, Coding, Content, Found, Opened, PATH, Places, Site, Try};
use pool::{Kept, Known, Pool};
use proto_http::{ImfDate, Method, Response};
use regex::Regex;
use ring::rand::{SecureRandom as _, SystemRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

pub use pool::encode;

const NOT_FOUND: Outcome = "notFound";
const CLIENT_ERROR: Outcome = "clientError";
const SERVER_ERROR: Outcome = "serverError";
const INTERNAL_ERROR: Outcome = "internalError";

/// `kind: FileServer`: gives files of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["root"]))]
pub struct FileServerSpec {
    /// The directory that paths begin at, on every machine.
    pub root: String,
    /// Files that stand for their directory; the first that is there does. Default `[index.html, index.txt]`.
    pub index: Vec<String>,
    /// Names nobody gets (403), with `*`, `?` and `[…]`: of any file or directory on the way where there is no slash in the pattern, else of
    /// the whole way, with all that is below. Default: none.
    pub hidden: Vec<String>,
    /// What is looked for, in this order: paths, in which `{path}` stands for the request's, and `=404 text`, which answers so. Default
    /// `["{path}"]`.
    pub try_files: Vec<String>,
    /// A regular expression and what takes the place of what it matches in the path, with `$1` for its groups, before anything is looked for:
    /// `"^/v[0-9]+/(.*) /$1"`. Default: none.
    pub rewrite: String,
    /// Codings that files are there in as well, beside the plain ones, those preferred first: `br gzip zstd` for `.br`, `.gz` and `.zst`.
    /// Default: none.
    pub precompressed: String,
    /// `gzip` packs what is sent, where the client takes it and it is worth it. Default: nothing.
    pub compress: String,
    /// What is kept in memory, and for how long clients may keep it.
    pub cache: FileCacheSpec,
    /// Files that may be open at a time, each for as long as its client takes; beyond them clients get 503, as where the process has
    /// no more left than it sets aside for what is no traffic. Default 1024, 1 to 65536. Memory: 128 KiB each.
    pub max_open_files: u32,
}

impl Default for FileServerSpec {
    fn default() -> Self {
        Self {
            root: String::new(),
            index: vec!["index.html".to_owned(), "index.txt".to_owned()],
            hidden: Vec::new(),
            try_files: Vec::new(),
            rewrite: String::new(),
            precompressed: String::new(),
            compress: String::new(),
            cache: FileCacheSpec::default(),
            max_open_files: 1024,
        }
    }
}

/// What is kept in memory, and for how long clients may keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FileCacheSpec {
    /// Files in memory, in bytes altogether; 0: none. Default 268435456, 256 MiB (Easegress: 2 GiB). They count as bodies towards
    /// `--memory-limit`, and go when that is reached.
    pub buffer_pool_size: u64,
    /// Longest file that is kept there, in bytes. Default 10485760, 10 MiB, and never more than half of the pool.
    pub buffer_pool_max_file_size: u64,
    /// How long a file is kept before it is read again, in seconds. Whether it was changed is looked at every second in any case. Default 600.
    #[serde(rename = "bufferPoolTTL")]
    pub buffer_pool_ttl: u32,
    /// For how long clients and caches may use files without asking. Default: nothing is said of that.
    pub cache_file_extension_filters: Vec<ExtensionSpec>,
}

impl Default for FileCacheSpec {
    fn default() -> Self {
        Self {
            buffer_pool_size: 256 << 20,
            buffer_pool_max_file_size: 10 << 20,
            buffer_pool_ttl: 600,
            cache_file_extension_filters: Vec::new(),
        }
    }
}

/// For how long files of a kind may be used without asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["extension"]))]
pub struct ExtensionSpec {
    /// How their names end: `.css`, without regard to case; `*` for all.
    pub extension: Vec<String>,
    /// `Cache-Control: max-age`, in seconds. Default 3600.
    pub etag_max_age: u32,
}

impl Default for ExtensionSpec {
    fn default() -> Self {
        Self { extension: Vec::new(), etag_max_age: 3600 }
    }
}

const OPEN_MAX: u32 = 65_536;

impl Spec for FileServerSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.root.is_empty() {
            let problem = Problem::new(at(path, "root"), "missing");
            findings.problem(problem.advice("name a directory, which has to be there on every machine"));
        } else if !self.root.starts_with('/') {
            findings
                .warn(at(path, "root"), "does not begin with a slash: where it is depends on where weir was started");
        }
        for (number, name) in self.index.iter().enumerate() {
            if name.is_empty() || name.contains(['/', '\0']) || matches!(name.as_str(), "." | "..") {
                let problem = Problem::new(nth(&at(path, "index"), number), "not the name of a file").text(name);
                findings.problem(problem.accepted("a name without slashes, e.g. index.html"));
            }
        }
        for (number, pattern) in self.hidden.iter().enumerate() {
            if let Err(why) = hidden(pattern) {
                findings.problem(Problem::new(nth(&at(path, "hidden"), number), why).text(pattern));
            }
        }
        for (number, text) in self.try_files.iter().enumerate() {
            let place = nth(&at(path, "tryFiles"), number);
            match tried(text) {
                None => findings.problem(
                    Problem::new(place, "neither a path nor a status")
                        .text(text)
                        .accepted("a path with {path} or a slash in front, or =CODE text"),
                ),
                Some(Try::Status(..)) if number + 1 < self.try_files.len() => {
                    findings.warn(place, "answers in any case: what follows is never looked for");
                }
                Some(_) => {}
            }
        }
        if let Err(why) = rewrite(&self.rewrite) {
            let problem = Problem::new(at(path, "rewrite"), why).text(&self.rewrite);
            findings.problem(problem.accepted("a regular expression, a space, and what takes its place"));
        }
        for name in self.precompressed.split([' ', ',']).filter(|name| !name.is_empty()) {
            if coding_of(name).is_none() {
                let problem = Problem::new(at(path, "precompressed"), "not a coding").text(name);
                findings.problem(problem.accepted(one_of(&CODINGS.map(|coding| coding.name))));
            }
        }
        if !matches!(self.compress.as_str(), "" | "gzip") {
            findings.problem(Problem::new(at(path, "compress"), "not a codec").text(&self.compress).accepted("gzip"));
        }
        if !(1..=OPEN_MAX).contains(&self.max_open_files) {
            let problem = Problem::new(at(path, "maxOpenFiles"), "out of range").value(&self.max_open_files.into());
            findings.problem(problem.accepted(format!("1 to {OPEN_MAX}")));
        }
    }
}

fn coding_of(name: &str) -> Option<Coding> {
    CODINGS.into_iter().find(|coding| coding.name.eq_ignore_ascii_case(name))
}

/// One of `tryFiles`.
fn tried(text: &str) -> Option<Try> {
    let Some(status) = text.strip_prefix('=') else {
        return (text.starts_with('/') || text.starts_with(PATH)).then(|| Try::Path(text.to_owned()));
    };
    let (code, message) = status.trim().split_once(' ').unwrap_or((status.trim(), ""));
    let code = code.parse().ok().filter(|code| (200..600).contains(code))?;
    Some(Try::Status(code, message.trim().to_owned()))
}

/// `rewrite`, in its two parts.
fn rewrite(text: &str) -> Result<Option<(Regex, String)>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let parts = text.trim().split_once(char::is_whitespace).ok_or("nothing to take the place of what it matches")?;
    Ok(Some((base_model::regexp::compile(parts.0)?, parts.1.trim().to_owned())))
}

/// A pattern of names as an expression, and whether it is matched with the whole way.
fn hidden(pattern: &str) -> Result<(Regex, bool), String> {
    let trimmed = pattern.trim_matches('/');
    if trimmed.is_empty() {
        return Err("hides everything or nothing; name a file or directory".to_owned());
    }
    let mut text = String::from("^");
    let mut chars = trimmed.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => text.push_str(".*"),
            '*' => text.push_str("[^/]*"),
            '?' => text.push_str("[^/]"),
            '[' => {
                text.push('[');
                if chars.next_if(|c| matches!(c, '^' | '!')).is_some() {
                    text.push('^');
                }
                loop {
                    match chars.next() {
                        None => return Err("a [ without its ]".to_owned()),
                        Some(']') => break text.push(']'),
                        Some('-') => text.push('-'),
                        Some(c) => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
                    }
                }
            }
            '\\' => text.push_str(&regex::escape(&chars.next().map(String::from).unwrap_or_default())),
            c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    let whole = pattern.contains('/');
    text.push_str(if whole { "(/.*)?$" } else { "$" });
    base_model::regexp::compile(&format!("(?s:{text})")).map(|pattern| (pattern, whole))
}

/// A ready FileServer.
pub struct FileServer {
    spec: FileServerSpec,
    site: Arc<Site>,
    pool: Arc<Pool>,
    /// Those preferred first.
    codings: Vec<Coding>,
    rewrite: Option<(Regex, String)>,
    open_max: Limit,
    looks_max: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "FileServer",
    results: &[CLIENT_ERROR, INTERNAL_ERROR, NOT_FOUND, SERVER_ERROR],
    doc: module_doc!("file_server.rs"),
    schema: spec::schema::<FileServerSpec>,
    check: spec::check::<FileServerSpec>,
    build: |fields, parts| spec::build(fields, |spec| FileServer::new(spec, parts)),
};

impl FileServer {
    fn new(spec: FileServerSpec, parts: &Parts<'_>) -> Result<FileServer, BuildError> {
        let previous = parts.previous.and_then(|filter| filter.downcast::<FileServer>());
        let cache = &spec.cache;
        // What was read stays good, and what is open counts, for as long as it is about the same files.
        let pool = match previous.filter(|known| known.spec == spec) {
            Some(known) => known.pool.clone(),
            None => Arc::new(Pool::new(cache.buffer_pool_size, Duration::from_secs(cache.buffer_pool_ttl.into()))),
        };
        let open = match previous.filter(|known| known.spec.max_open_files == spec.max_open_files) {
            Some(known) => known.site.open.clone(),
            None => Places::new(spec.max_open_files as usize),
        };
        let (mut hidden_names, mut hidden_paths) = (Vec::new(), Vec::new());
        for pattern in &spec.hidden {
            let (pattern, whole) = hidden(pattern).map_err(|why| unexpected("hidden", why))?;
            if whole { &mut hidden_paths } else { &mut hidden_names }.push(pattern);
        }
        let mut tries: Vec<Try> = spec.try_files.iter().filter_map(|text| tried(text)).collect();
        if tries.is_empty() {
            tries.push(Try::Path(PATH.to_owned()));
        }
        let limits = parts.telemetry.limits();
        Ok(FileServer {
            site: Arc::new(Site {
                root: spec.root.clone().into(),
                index: spec.index.clone(),
                hidden_names,
                hidden_paths,
                tries,
                whole_max: cache.buffer_pool_max_file_size.min(pool.longest()),
                open,
            }),
            pool,
            codings: spec.precompressed.split([' ', ',']).filter_map(coding_of).collect(),
            rewrite: rewrite(&spec.rewrite).map_err(|why| unexpected("rewrite", why))?,
            open_max: limits.register("file_server_open_files"),
            looks_max: limits.register("file_server_looks"),
            spec,
        })
    }

    /// The codings that are looked for, the client's favourite first.
    fn codings(&self, exchange: &Exchange) -> Vec<Coding> {
        if self.codings.is_empty() {
            return Vec::new();
        }
        let headers = &exchange.default_space_ref().request.headers;
        let weight = |coding: &Coding| coding::weight_of(headers, coding.name);
        let mut taken: Vec<_> = self.codings.iter().map(|coding| (weight(coding), *coding)).collect();
        taken.retain(|(weight, _)| *weight > 0);
        taken.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        taken.into_iter().map(|(_, coding)| coding).collect()
    }

    /// Looks on the disk.
    async fn look(&self, asked: Asked, known: Option<Arc<Kept>>, exchange: &mut Exchange) -> Outcome {
        let (sender, receiver) = oneshot::channel();
        let (site, key) = (self.site.clone(), asked.key());
        let job = move || {
            if sender.is_closed() {
                return;
            }
            let found = match site.find(&asked.path, &asked.codings, known.as_ref()) {
                Found::Directory if asked.slash => {
                    site.find(&format!("{}/", asked.path), &asked.codings, known.as_ref())
                }
                found => found,
            };
            // Whoever asked may have left meanwhile.
            let _ = sender.send(found);
        };
        if disk::look(job).is_err() {
            self.looks_max.hit(base_runtime::worker_index());
            return busy(exchange);
        }
        let found = receiver.await.unwrap_or_else(|_| Found::Failed("reading failed".to_owned()));
        match &found {
            Found::File(file) => self.pool.keep(&key, file, base_runtime::now()),
            _ => self.pool.forget(&key),
        }
        match found {
            Found::File(file) => self.give(&file, exchange),
            Found::Directory => redirect(exchange),
            Found::Told(status, text) => tell(exchange, status, text),
            Found::Busy => {
                self.open_max.hit(base_runtime::worker_index());
                busy(exchange)
            }
            Found::Failed(why) => {
                exchange.tags.note(|| format!("fileServer: {why}"));
                exchange.refuse(500);
                INTERNAL_ERROR
            }
        }
    }

    /// Answers with a file.
    fn give(&self, file: &Kept, exchange: &mut Exchange) -> Outcome {
        let request = exchange.request();
        let head = request.method == Method::Head;
        let facts = Facts { size: file.size, modified: file.modified.0, etag: &file.etag };
        let wanted = conditions::wanted(&request.method, &request.headers, facts);
        let mut response = Response::with_status(200);
        let headers = &mut response.headers;
        headers.add("ETag", &file.etag);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // A date that has not come yet is none (RFC 9110 section 8.8.2.1).
        headers.add("Last-Modified", ImfDate::new(file.modified.0.min(now)).as_str());
        if let Some(seconds) = self.max_age(&file.name) {
            headers.add("Cache-Control", format!("max-age={seconds}"));
        }
        if !self.codings.is_empty() {
            headers.add("Vary", "Accept-Encoding");
        }
        let (mut outcome, mut body) = (SUCCESS, Body::Empty);
        match wanted {
            Wanted::NotModified => response.status = 304,
            Wanted::Failed => (response.status, outcome) = (412, CLIENT_ERROR),
            Wanted::Unsatisfiable => {
                headers.add("Content-Range", format!("bytes */{}", file.size));
                (response.status, outcome) = (416, CLIENT_ERROR);
            }
            Wanted::Whole | Wanted::Part(_) | Wanted::Parts(_) => {
                headers.add("Accept-Ranges", "bytes");
                if let Some(coding) = file.coding {
                    headers.add("Content-Encoding", coding);
                }
                body = match wanted {
                    Wanted::Part(range) => {
                        headers.add("Content-Type", file.media);
                        headers.add("Content-Range", content_range(&range, file.size));
                        response.status = 206;
                        bytes_of(file, range)
                    }
                    Wanted::Parts(ranges) => {
                        let boundary = boundary();
                        headers.add("Content-Type", format!("multipart/byteranges; boundary={boundary}"));
                        response.status = 206;
                        several(file, &ranges, &boundary)
                    }
                    _ => {
                        headers.add("Content-Type", file.media);
                        if head {
                            headers.add("Content-Length", file.size.to_string());
                        }
                        bytes_of(file, 0..if head { 0 } else { file.size })
                    }
                };
            }
        }
        let space = exchange.space();
        if let Some(earlier) = space.response.take() {
            proxy::merge(&mut response, &earlier);
        }
        space.respond(response, body);
        if !self.spec.compress.is_empty() && outcome == SUCCESS {
            coding::pack_response_of(PACKED_LEAST, exchange);
        }
        outcome
    }

    fn max_age(&self, name: &str) -> Option<u32> {
        let fits = |ending: &String| {
            let ending = ending.trim_start_matches('*');
            let dotted =
                if ending.is_empty() || ending.starts_with('.') { ending.to_owned() } else { format!(".{ending}") };
            name.len() >= dotted.len()
                && name.is_char_boundary(name.len() - dotted.len())
                && name[name.len() - dotted.len()..].eq_ignore_ascii_case(&dotted)
        };
        let filters = &self.spec.cache.cache_file_extension_filters;
        filters.iter().find(|filter| filter.extension.iter().any(fits)).map(|filter| filter.etag_max_age)
    }
}

/// Shorter files are not packed, in bytes.
const PACKED_LEAST: u64 = 256;

/// What is looked for.
struct Asked {
    path: String,
    codings: Vec<Coding>,
    /// The client has the slash of a directory, whatever the path has become.
    slash: bool,
}

impl Asked {
    /// What is kept under this is the same for all who ask so.
    fn key(&self) -> String {
        let codings = self.codings.iter().map(|coding| coding.name).collect::<Vec<_>>();
        format!("{} {} {}", u8::from(self.slash), codings.join(","), self.path)
    }
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    bytes.slice(range.start as usize..range.end as usize)
}

fn stream(file: &Arc<Opened>, parts: VecDeque<Part>) -> Body {
    Body::Stream(Box::new(FileBody::new(file.clone(), parts)))
}

fn bytes_of(file: &Kept, range: Range<u64>) -> Body {
    match &file.content {
        _ if range.is_empty() => Body::Empty,
        Content::Whole(bytes) => Body::shared(slice(bytes, &range)),
        Content::Open(opened) => stream(opened, [Part::File(range)].into()),
    }
}

/// The parts of a `multipart/byteranges` (RFC 9110 section 14.6).
fn several(file: &Kept, ranges: &[Range<u64>], boundary: &str) -> Body {
    let head = |range: &Range<u64>| {
        let (media, place) = (file.media, content_range(range, file.size));
        format!("\r\n--{boundary}\r\nContent-Type: {media}\r\nContent-Range: {place}\r\n\r\n")
    };
    let end = format!("\r\n--{boundary}--\r\n");
    match &file.content {
        Content::Whole(bytes) => {
            let mut body = Vec::new();
            for range in ranges {
                body.extend_from_slice(head(range).as_bytes());
                body.extend_from_slice(&slice(bytes, range));
            }
            body.extend_from_slice(end.as_bytes());
            Body::full(body)
        }
        Content::Open(opened) => {
            let each = ranges.iter().flat_map(|range| [Part::Text(head(range).into()), Part::File(range.clone())]);
            stream(opened, each.chain([Part::Text(end.into())]).collect())
        }
    }
}

/// What no file has in it by chance.
fn boundary() -> String {
    let mut random = [0u8; 16];
    // Without random numbers the place of the array will do: the client is told the boundary.
    let _ = SystemRandom::new().fill(&mut random);
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn busy(exchange: &mut Exchange) -> Outcome {
    exchange.refuse(503).headers.set("Retry-After", "1");
    SERVER_ERROR
}

fn tell(exchange: &mut Exchange, status: u16, text: String) -> Outcome {
    let response = exchange.refuse(status);
    if !text.is_empty() {
        response.headers.set("Content-Type", "text/plain; charset=utf-8");
        exchange.space().response_body = Body::full(text);
    }
    match status {
        404 => NOT_FOUND,
        400..500 => CLIENT_ERROR,
        500.. => SERVER_ERROR,
        _ => SUCCESS,
    }
}

/// To the same place with a slash at its end, as the client knows it. One slash in front: two would name a host.
fn redirect(exchange: &mut Exchange) -> Outcome {
    let path = String::from_utf8_lossy(exchange.asked_path());
    let mut location = format!("/{}/", path.trim_matches('/'));
    if let Some(query) = &exchange.request().query {
        location.push('?');
        location.push_str(query);
    }
    exchange.refuse(301).headers.set("Location", location);
    SUCCESS
}

impl Filter for FileServer {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::RESPONSE)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let request = exchange.request();
        if !matches!(request.method, Method::Get | Method::Head) {
            exchange.refuse(405).headers.set("Allow", "GET, HEAD");
            return Step::Done(CLIENT_ERROR);
        }
        let mut path = request.path.clone();
        if let Some((pattern, with)) = &self.rewrite {
            let text = pattern.replace_all(request.path.as_str(), with.as_str());
            if path.rewrite(&text).is_err() {
                return Step::Done(tell(exchange, 400, String::new()));
            }
        }
        let slash = exchange.asked_path().ends_with(b"/");
        let asked = Asked { path: path.as_str().to_owned(), codings: self.codings(exchange), slash };
        match self.pool.find(&asked.key(), base_runtime::now()) {
            Known::Fresh(file) => Step::Done(self.give(&file, exchange)),
            Known::Old(file) => Step::wait(self.look(asked, Some(file), exchange)),
            Known::Nothing => Step::wait(self.look(asked, None, exchange)),
        }
    }

    fn status(&self) -> Option<Value> {
        let (files, bytes) = self.pool.held();
        Some(json!({"files": files, "bytes": bytes, "open": self.site.open.taken()}))
    }
}
