//! Whatever a request and its answer say, what is kept of it is for those it is for, and no fresher than the strictest word allows.

use proto_cache::conditional::{is_not_modified, range_is_of};
use proto_cache::key::{push_key, url_of};
use proto_cache::range::{Span, span_of};
use proto_cache::{
    Cookies, Heuristic, KeyRules, RequestControl, ResponseControl, Rules, Times, Use, invalidate, may_stand_in, use_of,
};
use proto_http::{Headers, Request, Response};
use std::time::{Duration, Instant};

/// Fields of a request, one a line; an empty line; fields of its answer.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.split(|&b| b == b'\n');
    let mut request = Request { authority: "h.test".to_owned(), ..Request::default() };
    read(lines.by_ref().take_while(|line| !line.is_empty()), &mut request.headers);
    let mut response = Response::default();
    read(lines, &mut response.headers);

    let now = Instant::now();
    let times = Times { asked: now, received: now, unix_seconds: 784_111_777 };
    let rules = Rules {
        targeted: vec!["CDN-Cache-Control".to_owned(), "Surrogate-Control".to_owned()],
        heuristic: Some(Heuristic { percent: 10, most: Duration::from_secs(3600) }),
        lifetimes: vec![(200..=200, Duration::from_secs(5))],
        cookies: Cookies::Refuse,
        stale_while_revalidate: Duration::from_secs(7),
        stale_if_error: Duration::from_secs(9),
        lifetime_most: None,
    };
    let (mut key, mut again) = (Vec::new(), Vec::new());
    let lined = push_key(&request, "http", &KeyRules::default(), &mut key);
    push_key(&request, "http", &KeyRules::default(), &mut again);
    assert!(key == again && lined == (url_of(&key).len() < key.len()) && url_of(&key) == b"http://h.test");
    let others = invalidate::others(&request, "http", &response);
    assert!(others.iter().all(|target| target.len() <= bytes.len() + 2));

    let asked = RequestControl::of(&request.headers);
    let Ok(kept) = rules.keep(&request, &response, &times) else { return };
    assert!(!asked.no_store && !kept.headers.has_alike(b"Set-Cookie") && !kept.headers.contains("Age"));
    assert!(kept.vary.is_for(&request.headers, &mut Vec::new()), "it is for who asked");
    let control = ResponseControl::of(&response.headers);
    let is_targeted = rules.targeted.iter().any(|field| ResponseControl::targeted(&response.headers, field).is_some());
    if !is_targeted {
        assert!(!control.private && (!control.no_store || control.must_understand));
        assert!(
            !request.headers.contains("Authorization")
                || control.public
                || control.must_revalidate
                || control.s_maxage.is_some()
        );
        if let Some(seconds) = control.s_maxage.or(control.max_age) {
            assert_eq!(kept.freshness.lifetime, Duration::from_secs(seconds.into()));
        }
        if control.no_cache {
            assert_eq!(use_of(&kept, &asked, now), Use::AfterValidation);
            assert!(!may_stand_in(&kept, &asked, now));
        }
        if control.must_revalidate || control.proxy_revalidate {
            let late = now + kept.freshness.left(now) + Duration::from_secs(1);
            assert_eq!(use_of(&kept, &asked, late), Use::AfterValidation);
            assert!(!may_stand_in(&kept, &asked, late));
        }
    }
    // Nothing becomes fresher by waiting.
    let mut before = true;
    for seconds in [0, 1, 2, 60, 3600, 1 << 31, 1 << 32] {
        let is_fresh = kept.freshness.is_fresh(now + Duration::from_secs(seconds));
        assert!(before || !is_fresh);
        before = is_fresh;
    }
    is_not_modified(&kept, &request.headers);
    range_is_of(&kept, &request.headers);
    let freshened = kept.freshened(&response);
    assert_eq!(freshened.headers.value("ETag"), kept.headers.value("ETag"));
    let mut validating = request.clone();
    kept.ask_whether_changed(&mut validating);
    assert_eq!(validating.headers.values("If-None-Match").count(), usize::from(kept.headers.contains("ETag")));
    for length in [0, 1, 1000] {
        if let Some(Span::Part { first, last }) = request.headers.value("Range").map(|range| span_of(range, length)) {
            assert!(first <= last && last < length);
        }
    }
}

fn read<'a>(lines: impl Iterator<Item = &'a [u8]>, into: &mut Headers) {
    for line in lines.take(64) {
        let colon = line.iter().position(|&b| b == b':').unwrap_or(line.len());
        into.add(&line[..colon], line[colon..].strip_prefix(b":").unwrap_or_default().trim_ascii());
    }
}
