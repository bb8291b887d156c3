//! Reading a configuration of nginx's or HAProxy's ends, neither panics nor grows without a bound, and what it makes is YAML that can be
//! read again.

use control_convert::{Files, haproxy, nginx, to_yaml};
use std::path::{Path, PathBuf};

/// One file, which includes nothing but itself.
pub struct Text<'a>(pub &'a str);

impl Files for Text<'_> {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        if path.ends_with("main") { Ok(self.0.as_bytes().to_vec()) } else { Err("no such file".into()) }
    }

    fn matching(&self, _: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}

pub fn check(text: &str) {
    for convert in [nginx::convert, haproxy::convert] {
        let Ok(converted) = convert(Path::new("main"), "p", &Text(text)) else { continue };
        let yaml = to_yaml(&converted.documents);
        let bytes = yaml.len() + converted.report.to_string().len();
        assert!(bytes <= (1 << 16) + (1 << 14) * text.len(), "{bytes} bytes of {}", text.len());
        if let Ok(read) = base_model::yaml::parse_documents(&yaml) {
            assert_eq!(read, converted.documents, "{yaml}");
        }
    }
}
