//! Whole configurations, in the styles people publish, beside the documents and the report they become.
//!
//! `UPDATE_GOLDEN=1 cargo test -p control-convert` writes what there is now; look at the difference before it is committed.
#![forbid(unsafe_code)]

use base_model::{Beside, Object, Outline};
use control_convert::{Converted, Disk, Files, Unreadable, haproxy, nginx, to_yaml};
use edge_filters::kinds::Shelf;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

type Convert = fn(&Path, &str, &dyn Files) -> Result<Converted, Unreadable>;

fn golden(folder: &str, file: &str, prefix: &str, convert: Convert) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut converted =
        convert(&folder.join(file), prefix, &Certified::new()).unwrap_or_else(|wrong| panic!("{wrong}"));
    for left in &mut converted.report.left {
        let relative = Path::new(&*left.file).strip_prefix(&folder).map(|path| path.display().to_string());
        left.file = relative.expect("a file of the folder").into();
    }
    converted.report.sort();
    are_accepted(&converted);
    for document in &mut converted.documents {
        for field in ["certs", "keys"] {
            let texts = document.get_mut(field).and_then(serde_json::Value::as_object_mut);
            texts.into_iter().flat_map(|texts| texts.values_mut()).for_each(|text| *text = "left out".into());
        }
    }
    for (name, made) in
        [("documents.yaml", to_yaml(&converted.documents)), ("report.txt", format!("{}\n", converted.report))]
    {
        let path = folder.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &made).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{} is not what is made now:\n{made}", path.display());
    }
}

/// The disk, with a certificate and its key wherever one is named.
struct Certified {
    chain: String,
    key: String,
}

impl Certified {
    fn new() -> Certified {
        let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
        Certified { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }
}

impl Files for Certified {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => Ok(self.chain.clone().into_bytes()),
            Some("key") => Ok(self.key.clone().into_bytes()),
            _ => Disk.read(path),
        }
    }

    fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        Disk.matching(pattern)
    }
}

/// The server would take them, without a warning.
fn are_accepted(converted: &Converted) {
    let admit = |document| {
        let admitted = Object::admit(document, &Shelf, SystemTime::now(), |_| None);
        admitted.unwrap_or_else(|problems| {
            panic!("{}: {}", document["name"], problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })
    };
    let objects: Vec<Object> = converted.documents.iter().map(admit).collect();
    let outlines: Vec<Outline> = objects.iter().map(Outline::of).collect();
    let beside = Beside::new(&outlines);
    for object in &objects {
        let together = beside.check(object);
        assert!(together.problems.is_empty(), "{:?}", together.problems);
        // What a later version serves is said by this one.
        let warnings = object.warnings.iter().chain(&together.warnings).map(ToString::to_string);
        let warnings: Vec<String> = warnings.filter(|text| !text.contains("this version")).collect();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn a_shop_with_everything_in_one_file() {
    golden("nginx/shop", "nginx.conf", "nginx", nginx::convert);
}

#[test]
fn sites_in_files_of_their_own() {
    golden("nginx/sites", "nginx.conf", "edge", nginx::convert);
}

#[test]
fn streams() {
    golden("nginx/streams", "nginx.conf", "nginx", nginx::convert);
}

#[test]
fn frontends_with_conditions() {
    golden("haproxy/web", "haproxy.cfg", "haproxy", haproxy::convert);
}

#[test]
fn relays() {
    golden("haproxy/relay", "haproxy.cfg", "haproxy", haproxy::convert);
}

/// Includes that go round, or lead to nothing.
struct One(&'static str);

impl Files for One {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        if path.ends_with("missing") { Err("no such file".into()) } else { Ok(self.0.as_bytes().to_vec()) }
    }

    fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        vec![pattern.to_owned()]
    }
}

#[test]
fn files_that_include_themselves_or_are_missing_are_named() {
    for (text, expected) in [
        ("include a.conf;", "a.conf:1: include a.conf: more than 16 files deep; does a file include itself?"),
        ("\nhttp { include missing; }", "a.conf:2: include missing: cannot be read: no such file"),
        ("http { server { listen 80 } }", "a.conf:1: a } before the ; of \"listen\""),
    ] {
        let error = nginx::convert(Path::new("a.conf"), "p", &One(text)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let error = haproxy::convert(Path::new("a.cfg"), "p", &One("x")).unwrap_err();
    assert!(error.to_string().starts_with("a.cfg:1: a line before any section"), "{error}");
}
