//! The dashboard: one page over the admin API, whose files are part of the program.
//!
//! The page holds nothing that is secret and asks the API for what it shows, with the login that its reader gives it; so its files are
//! for everybody who reaches the API. It loads nothing from elsewhere, and its policy (`Content-Security-Policy`) lets it load, run and
//! call nothing but what comes from this machine.
//!
//! Reading order of `assets`: `index.html`, `app.js` (what is asked when, and which view is shown), `api.js` (asking, and the login),
//! `dom.js` (elements and numbers), `views.js` (one function for each view), `config.js` (documents, their history, and changes).
#![forbid(unsafe_code)]

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Where the page is.
pub const PATH: &str = "/dashboard";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 7] = [
    ("/dashboard", HTML, include_str!("../assets/index.html")),
    ("/dashboard/app.js", SCRIPT, include_str!("../assets/app.js")),
    ("/dashboard/api.js", SCRIPT, include_str!("../assets/api.js")),
    ("/dashboard/dom.js", SCRIPT, include_str!("../assets/dom.js")),
    ("/dashboard/views.js", SCRIPT, include_str!("../assets/views.js")),
    ("/dashboard/config.js", SCRIPT, include_str!("../assets/config.js")),
    ("/dashboard/style.css", "text/css; charset=utf-8", include_str!("../assets/style.css")),
];

/// Nothing from elsewhere, nothing inline, no frame around it, and no form that leads away.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Whether a path is one of the page's files, which need no login.
pub fn is_file(path: &str) -> bool {
    FILES.iter().any(|(known, ..)| *known == path)
}

/// The page's files.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(move |headers: HeaderMap| async move { file(kind, content, &headers) }))
    })
}

fn file(kind: &'static str, content: &'static str, asked: &HeaderMap) -> Response {
    // The files of another version are another text.
    let tag = format!("\"{:016x}\"", fingerprint(content.as_bytes()));
    let known = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let same = known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let heads = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let (status, body) = if same { (StatusCode::NOT_MODIFIED, "") } else { (StatusCode::OK, content) };
    (status, heads, [(header::ETAG, tag)], Body::from(body)).into_response()
}

/// FNV-1a.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_nothing_inline() {
        for (path, kind, content) in FILES {
            let addresses = content.matches("://").count() - content.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(addresses, 0, "{path} names an address");
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "localStorage",
            ] {
                assert!(!content.contains(forbidden), "{path}: {forbidden}");
            }
            if kind == HTML {
                assert!(
                    !content.contains(" style=") && !content.contains(" onclick=") && !content.contains("<style"),
                    "{path}"
                );
                for used in content.split(['"', '\'']).filter(|text| text.starts_with("/dashboard")) {
                    assert!(is_file(used), "{path} uses {used}, which is no file");
                }
            }
            for used in content.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(is_file(&format!("/dashboard/{used}")), "{path} imports {used}");
            }
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let content = FILES[1].2;
        let first = file(SCRIPT, content, &HeaderMap::new());
        let tag = first.headers()[header::ETAG].clone();
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, tag);
        assert_eq!(file(SCRIPT, content, &asked).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(file(SCRIPT, "another", &asked).status(), StatusCode::OK);
        assert!(first.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'"));
    }
}
