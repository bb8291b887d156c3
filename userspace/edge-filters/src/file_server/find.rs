//! Which file a path means, and opening it: on threads that may wait for a disk.
//!
//! Names are opened below the root's directory by the kernel itself (`openat2` with `RESOLVE_BENEATH`), so that neither dots nor symbolic
//! links lead out of it, whatever is renamed meanwhile. Where that call is not allowed, no symbolic link is followed at all.

use super::pool::Kept;
use super::types;
use base_runtime::{memory, pressure};
use bytes::Bytes;
use edge_pipeline::body::booked;
use regex::Regex;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A coding that files may be there in beside the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coding {
    /// As `Accept-Encoding` names it.
    pub name: &'static str,
    /// What names of such files end with.
    pub endings: [&'static str; 2],
}

/// `.gzip` and `.zstd` are how Easegress looks for them.
pub(super) const CODINGS: [Coding; 3] = [
    Coding { name: "br", endings: [".br", ".brotli"] },
    Coding { name: "gzip", endings: [".gz", ".gzip"] },
    Coding { name: "zstd", endings: [".zst", ".zstd"] },
];

/// One of `tryFiles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Try {
    /// A path, in which `{path}` stands for the request's.
    Path(String),
    Status(u16, String),
}

/// Where files are, and what of them is shown.
#[derive(Debug)]
pub(super) struct Site {
    pub root: PathBuf,
    pub index: Vec<String>,
    /// Matched with each name on the way to a file.
    pub hidden_names: Vec<Regex>,
    /// Matched with the whole way.
    pub hidden_paths: Vec<Regex>,
    pub tries: Vec<Try>,
    /// Files of at most so many bytes are read whole, to be kept; 0: none.
    pub whole_max: u64,
    pub open: Arc<Places>,
}

/// Files that may be open at a time.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    most: usize,
}

/// An open file, among those that may be.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    places: Arc<Places>,
}

/// What a path means.
#[derive(Debug)]
pub(super) enum Found {
    File(Arc<Kept>),
    /// A directory with an index, asked for without the slash at its end.
    Directory,
    /// A status, with a text where `tryFiles` has one.
    Told(u16, String),
    /// As many files are open as may be, or as traffic may have.
    Busy,
    /// The disk or the root failed.
    Failed(String),
}

/// The bytes of a file.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Whole(Bytes),
    Open(Arc<Opened>),
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Places> {
        Arc::new(Places { taken: AtomicUsize::new(0), most })
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn open(self: &Arc<Self>, file: File) -> Option<Opened> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it gives the place back.
        let opened = Opened { file, places: self.clone() };
        (before < self.most).then_some(opened)
    }
}

impl Opened {
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no file.
enum Miss {
    Missing,
    Unsafe,
    Hidden,
    Forbidden,
    /// Descriptors are short.
    Busy,
    Failed(String),
}

impl Site {
    /// `path` is canonical; of `codings` the first that is there is taken. `known` is what was found before.
    pub(super) fn find(&self, path: &str, codings: &[Coding], known: Option<&Arc<Kept>>) -> Found {
        let root = match File::open(&self.root) {
            Ok(root) if !pressure::is_for_traffic(&root) => return Found::Busy,
            Ok(root) => OwnedFd::from(root),
            Err(error) if is_short(&error) => return Found::Busy,
            Err(error) => return Found::Failed(format!("root: {error}")),
        };
        for candidate in &self.tries {
            let tried = match candidate {
                Try::Status(status, text) => return Found::Told(*status, text.clone()),
                Try::Path(template) if template == PATH => path.to_owned(),
                Try::Path(template) => template.replace(PATH, path),
            };
            match self.found(&root, &tried) {
                Ok(Way::Directory) if tried == path => return Found::Directory,
                Ok(Way::Directory | Way::Nothing) | Err(Miss::Missing) => {}
                Ok(Way::File(names, file, metadata)) => {
                    return self.choose(&root, &names, (file, *metadata), codings, known);
                }
                Err(Miss::Unsafe) => return Found::Told(400, String::new()),
                Err(Miss::Hidden | Miss::Forbidden) => return Found::Told(403, String::new()),
                Err(Miss::Busy) => return Found::Busy,
                Err(Miss::Failed(why)) => return Found::Failed(why),
            }
        }
        Found::Told(404, String::new())
    }

    /// Where a path leads.
    fn found(&self, root: &OwnedFd, path: &str) -> Result<Way, Miss> {
        let names = names(path).ok_or(Miss::Unsafe)?;
        let (file, metadata) = self.open(root, &names)?;
        let asked_as_directory = path.ends_with('/');
        if metadata.is_file() {
            return Ok(if asked_as_directory { Way::Nothing } else { Way::File(names, file, Box::new(metadata)) });
        }
        if !metadata.is_dir() {
            return Ok(Way::Nothing);
        }
        for index in &self.index {
            let mut inside = names.clone();
            inside.push(index.clone().into_bytes());
            match self.open(root, &inside) {
                Ok((file, metadata)) if metadata.is_file() => {
                    let here = asked_as_directory || path.is_empty();
                    return Ok(if here { Way::File(inside, file, Box::new(metadata)) } else { Way::Directory });
                }
                Ok(_) | Err(Miss::Missing) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(Way::Nothing)
    }

    fn open(&self, root: &OwnedFd, names: &[Vec<u8>]) -> Result<(File, Metadata), Miss> {
        if self.hides(names) {
            return Err(Miss::Hidden);
        }
        let file = beneath(root, names).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO => Miss::Missing,
            Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::XDEV => Miss::Forbidden,
            Errno::MFILE | Errno::NFILE => Miss::Busy,
            other => Miss::Failed(other.to_string()),
        })?;
        // Whatever `maxOpenFiles` says: the last ones are for the admin API, other members and logs.
        if !pressure::is_for_traffic(&file) {
            return Err(Miss::Busy);
        }
        let file = File::from(file);
        let metadata = file.metadata().map_err(|error| Miss::Failed(error.to_string()))?;
        Ok((file, metadata))
    }

    fn hides(&self, names: &[Vec<u8>]) -> bool {
        if self.hidden_names.is_empty() && self.hidden_paths.is_empty() {
            return false;
        }
        let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
        let whole = names.join("/");
        self.hidden_paths.iter().any(|hidden| hidden.is_match(&whole))
            || names.iter().any(|name| self.hidden_names.iter().any(|hidden| hidden.is_match(name)))
    }

    /// The file itself, or the same in the first coding that is there.
    fn choose(
        &self,
        root: &OwnedFd,
        names: &[Vec<u8>],
        plain: (File, Metadata),
        codings: &[Coding],
        known: Option<&Arc<Kept>>,
    ) -> Found {
        let name = names.last().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
        for coding in codings {
            for ending in coding.endings {
                let mut coded = names.to_vec();
                if let Some(last) = coded.last_mut() {
                    last.extend_from_slice(ending.as_bytes());
                }
                if let Ok((file, metadata)) = self.open(root, &coded)
                    && metadata.is_file()
                {
                    return self.load(name, (file, metadata), Some(*coding), known);
                }
            }
        }
        self.load(name, plain, None, known)
    }

    fn load(
        &self,
        name: String,
        (file, metadata): (File, Metadata),
        coding: Option<Coding>,
        known: Option<&Arc<Kept>>,
    ) -> Found {
        let coding = coding.map(|coding| coding.name);
        let modified = (metadata.mtime().max(0) as u64, metadata.mtime_nsec() as u64);
        let mut size = metadata.len();
        if let Some(known) =
            known.filter(|known| (known.modified, known.size, known.coding) == (modified, size, coding))
        {
            return Found::File(known.clone());
        }
        let content = if size <= self.whole_max && !memory::is_over() {
            match whole(&file, size, self.whole_max) {
                Ok(bytes) => bytes,
                Err(error) => return Found::Failed(error.to_string()),
            }
        } else {
            None
        };
        let content = match content {
            Some(bytes) => {
                size = bytes.len() as u64;
                Content::Whole(bytes)
            }
            None => match self.open.open(file) {
                Some(opened) => Content::Open(Arc::new(opened)),
                None => return Found::Busy,
            },
        };
        let mark = coding.map_or(String::new(), |coding| format!("-{coding}"));
        let etag = format!("\"{:x}-{size:x}{mark}\"", modified.0.saturating_mul(1_000_000_000) + modified.1);
        Found::File(Arc::new(Kept { content, size, modified, media: types::of(&name), name, coding, etag }))
    }
}

fn is_short(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE))
}

/// What a path led to.
enum Way {
    File(Vec<Vec<u8>>, File, Box<Metadata>),
    /// With an index, and without a slash.
    Directory,
    Nothing,
}

/// What stands for the request's path in `tryFiles`.
pub(super) const PATH: &str = "{path}";

/// The names on the way, without escapes; `None` where one could lead elsewhere: a slash or NUL inside a name, and dots.
fn names(path: &str) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let name = unescaped(segment)?;
        if matches!(&name[..], b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return None;
        }
        names.push(name);
    }
    Some(names)
}

fn unescaped(segment: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            name.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        name.push((digit(bytes.next())? * 16 + digit(bytes.next())?) as u8);
    }
    Some(name)
}

/// Opens what is below `root`, without waiting for the other end of a pipe. Whatever it is, it is looked at before it is read.
fn beneath(root: &OwnedFd, names: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
    for _ in 0..AGAIN_MAX {
        let way = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match openat2(root, path.as_slice(), flags, Mode::empty(), way) {
            // Something was renamed on the way.
            Err(Errno::AGAIN) => {}
            // Not in this kernel, or not in this container.
            Err(Errno::NOSYS | Errno::PERM) => return step_by_step(root, names, flags),
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// How often a look is begun anew because of a rename.
const AGAIN_MAX: usize = 16;

fn step_by_step(root: &OwnedFd, names: &[Vec<u8>], flags: OFlags) -> Result<OwnedFd, Errno> {
    let Some((last, before)) = names.split_last() else {
        return openat(root, c".", flags, Mode::empty());
    };
    let mut there: Option<OwnedFd> = None;
    let step = |there: &Option<OwnedFd>, name: &[u8], flags| {
        let at = there.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        openat(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    for name in before {
        there = Some(step(&there, name, OFlags::PATH | OFlags::DIRECTORY)?);
    }
    step(&there, last, flags)
}

/// The bytes of a file that is to be kept, however long it is by now; `None` when that is more than may be.
fn whole(file: &File, size: u64, most: u64) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then(|| booked(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn site(root: &Path) -> Site {
        Site {
            root: root.to_owned(),
            index: vec!["index.html".to_owned()],
            hidden_names: vec![Regex::new("^\\.git$").unwrap()],
            hidden_paths: vec![Regex::new("^a/secret(/.*)?$").unwrap()],
            tries: vec![Try::Path(PATH.to_owned())],
            whole_max: 100,
            open: Places::new(2),
        }
    }

    fn told(site: &Site, path: &str, codings: &[Coding]) -> String {
        match site.find(path, codings, None) {
            Found::File(file) => match &file.content {
                Content::Whole(bytes) => format!("{} {}", file.name, String::from_utf8_lossy(bytes)),
                Content::Open(_) => format!("{} open", file.name),
            },
            Found::Directory => "directory".to_owned(),
            Found::Told(status, text) => format!("{status}{text}"),
            Found::Busy => "busy".to_owned(),
            Found::Failed(why) => format!("failed: {why}"),
        }
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        fs::create_dir_all(root.join("empty")).unwrap();
        write("index.html", "home");
        write("a/index.html", "a home");
        write("a/b c.txt", "b");
        write("a/secret/x", "secret");
        write("a/secrets", "told");
        write(".git/config", "git");
        write("a/.git/config", "git");
        write("app.js", "plain");
        write("app.js.br", "brotli");
        write("app.js.gzip", "gzip");
        write("ü", "umlaut");
        write("50%", "percent");
        write("long", &"x".repeat(101));
        fs::write(folder.path().join("outside"), "outside").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink(folder.path().join("outside"), root.join("out-absolute")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("a/b c.txt", root.join("in")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        folder
    }

    #[test]
    fn paths_lead_to_files_below_the_root_and_nowhere_else() {
        let folder = tree();
        let site = site(&folder.path().join("root"));
        for (path, want) in [
            ("/", "index.html home"),
            ("/index.html", "index.html home"),
            ("/index.html/", "404"),
            ("/a", "directory"),
            ("/a/", "index.html a home"),
            ("//a//", "index.html a home"),
            ("/empty", "404"),
            ("/empty/", "404"),
            ("/a/b%20c.txt", "b c.txt b"),
            ("/in", "b c.txt b".replace("b c.txt", "in").as_str()),
            ("/ü", "ü umlaut"),
            ("/%C3%BC", "ü umlaut"),
            ("/50%25", "50% percent"),
            ("/none", "404"),
            ("/index.html/x", "404"),
            (&format!("/{}", "x".repeat(300)), "404"),
            ("/out", "403"),
            ("/out-absolute", "403"),
            ("/up/outside", "403"),
            ("/loop", "403"),
            ("/a/../index.html", "400"),
            ("/./index.html", "400"),
            ("/%2e%2e/outside", "400"),
            ("/a%2Findex.html", "400"),
            ("/index.html%00", "400"),
            ("/50%", "400"),
            ("/.git/config", "403"),
            ("/a/.git/config", "403"),
            ("/.git/none", "403"),
            ("/a/secret", "403"),
            ("/a/secret/x", "403"),
            ("/a/secrets", "secrets told"),
        ] {
            assert_eq!(told(&site, path, &[]), want, "{path}");
        }
        // As in a container that does not allow the call.
        let root = OwnedFd::from(File::open(&site.root).unwrap());
        let step = |path: &str| step_by_step(&root, &names(path).unwrap(), OFlags::RDONLY).map(drop);
        assert_eq!((step("/"), step("/a/index.html")), (Ok(()), Ok(())));
        assert_eq!((step("/out"), step("/in")), (Err(Errno::LOOP), Err(Errno::LOOP)));
        assert!(step("/up/outside").is_err());
        let gone = Site { root: folder.path().join("none"), ..self::site(folder.path()) };
        assert!(told(&gone, "/", &[]).starts_with("failed: root"));
    }

    #[test]
    fn the_first_coding_that_is_there_is_taken() {
        let folder = tree();
        let site = site(&folder.path().join("root"));
        let [br, gzip, zstd] = CODINGS;
        assert_eq!(told(&site, "/app.js", &[zstd, br, gzip]), "app.js brotli");
        assert_eq!(told(&site, "/app.js", &[gzip, br]), "app.js gzip");
        assert_eq!(told(&site, "/app.js", &[zstd]), "app.js plain");
        let Found::File(coded) = site.find("/app.js", &[br], None) else { panic!() };
        let Found::File(plain) = site.find("/app.js", &[], None) else { panic!() };
        assert_eq!((coded.coding, coded.media, plain.coding), (Some("br"), "text/javascript; charset=utf-8", None));
        assert_ne!(coded.etag, plain.etag);
        let Found::File(again) = site.find("/app.js", &[], Some(&plain)) else { panic!() };
        assert!(Arc::ptr_eq(&plain, &again), "what has not changed is not read again");
        fs::write(site.root.join("app.js"), "other").unwrap();
        let Found::File(other) = site.find("/app.js", &[], Some(&plain)) else { panic!() };
        assert!(other.etag != plain.etag && !Arc::ptr_eq(&plain, &other));
    }

    #[test]
    fn tries_in_their_order_and_few_files_are_open() {
        let folder = tree();
        let path = |text: &str| Try::Path(text.to_owned());
        let tries = vec![path(PATH), path("{path}.txt"), path("/a/{path}"), Try::Status(404, "gone".to_owned())];
        let site = Site { tries, ..site(&folder.path().join("root")) };
        assert_eq!(told(&site, "/secrets", &[]), "secrets told");
        assert_eq!(told(&site, "/a/b%20c", &[]), "b c.txt b");
        assert_eq!((told(&site, "/none", &[]), told(&site, "/a", &[])), ("404gone".to_owned(), "directory".to_owned()));
        let all = Site { tries: vec![path(PATH), path("/index.html")], ..self::site(&site.root) };
        assert_eq!(
            (told(&all, "/no/where", &[]), told(&all, "/empty", &[])),
            ("index.html home".into(), "index.html home".into())
        );
        let open: Vec<_> = (0..2).map(|_| site.find("/long", &[], None)).collect();
        assert!(matches!(&open[..], [Found::File(_), Found::File(_)]) && site.open.taken() == 2);
        assert_eq!(told(&site, "/long", &[]), "busy");
        drop(open);
        assert_eq!((told(&site, "/long", &[]), site.open.taken()), ("long open".to_owned(), 0));
    }
}
