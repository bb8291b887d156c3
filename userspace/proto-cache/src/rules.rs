//! Whether an answer is kept (RFC 9111 section 3).

use crate::control::{RequestControl, ResponseControl};
use crate::freshness::{Freshness, date, date_of, explicit_lifetime, heuristic_lifetime, initial_age};
use crate::kept::Kept;
use crate::tags;
use crate::vary::Vary;
use proto_http::headers::is_spelled_alike;
use proto_http::{Known, Method, Request, Response};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// When an answer was asked for and came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub asked: Instant,
    pub received: Instant,
    /// Seconds since 1970 at `received`.
    pub unix_seconds: u64,
}

/// How long an answer with a Last-Modified and nothing else is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heuristic {
    /// Share of the time since it was changed, in per cent.
    pub percent: u32,
    pub most: Duration,
}

/// What becomes of an answer that sets a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cookies {
    /// It is not kept: what one client is to remember is nobody else's.
    #[default]
    Refuse,
    /// It is kept without them.
    Strip,
    /// It is kept, and everybody gets them (RFC 9111 section 7.3 leaves that to the origin's Cache-Control).
    Keep,
}

/// What the operator says beside what answers say.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Fields that go before Cache-Control and Expires, the first that is there (RFC 9213).
    pub targeted: Vec<String>,
    /// `None`: an answer that does not say how long it is fresh is not kept for its Last-Modified.
    pub heuristic: Option<Heuristic>,
    /// How long answers with these statuses are fresh that say nothing of it.
    pub lifetimes: Vec<(RangeInclusive<u16>, Duration)>,
    pub cookies: Cookies,
    /// Where an answer does not say.
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    /// Longest lifetime; one that is longer is cut. `None`: as answers say.
    pub lifetime_most: Option<Duration>,
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// Only answers to GET are.
    Method,
    /// The client does not want it to be.
    RequestNoStore,
    /// 1xx, 206, 304, 416 of a range, or one that `must-understand` speaks of and we do not know.
    Status,
    NoStore,
    Private,
    /// It answers credentials, and does not say that others may have it.
    Authorization,
    SetCookie,
    /// It varies with what no request shows, or with too much.
    Vary,
    /// It does not say how long it is fresh, and nobody else does.
    NoLifetime,
    /// It is stale already, and cannot be validated or stand in.
    Useless,
    /// More tags than a purge would look at.
    Tags,
    /// It may be read from one origin only, and that is not in its Vary.
    OneOrigin,
}

impl Refusal {
    pub const ALL: [Refusal; 12] = [
        Refusal::Method,
        Refusal::RequestNoStore,
        Refusal::Status,
        Refusal::NoStore,
        Refusal::Private,
        Refusal::Authorization,
        Refusal::SetCookie,
        Refusal::Vary,
        Refusal::NoLifetime,
        Refusal::Useless,
        Refusal::Tags,
        Refusal::OneOrigin,
    ];

    /// One word, for a metric's label and for Cache-Status.
    pub const fn word(self) -> &'static str {
        match self {
            Refusal::Method => "method",
            Refusal::RequestNoStore => "request_no_store",
            Refusal::Status => "status",
            Refusal::NoStore => "no_store",
            Refusal::Private => "private",
            Refusal::Authorization => "authorization",
            Refusal::SetCookie => "set_cookie",
            Refusal::Vary => "vary",
            Refusal::NoLifetime => "no_lifetime",
            Refusal::Useless => "useless",
            Refusal::Tags => "tags",
            Refusal::OneOrigin => "one_origin",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Statuses whose answers may be taken to be fresh for a while without saying so (RFC 9110 section 15.1), but 206.
fn is_heuristically_cacheable(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Statuses that mean to a cache what RFC 9110 says, for `must-understand`.
fn is_understood(status: u16) -> bool {
    is_heuristically_cacheable(status)
        || matches!(status, 201 | 202 | 302 | 303 | 307 | 400..=403 | 406 | 409 | 500 | 502..=504)
}

impl Rules {
    /// What is to be kept of an answer, its body beside; or why nothing is. Fields of the hop it came over are gone already.
    pub fn keep(&self, request: &Request, response: &Response, times: &Times) -> Result<Kept, Refusal> {
        if request.method != Method::Get {
            return Err(Refusal::Method);
        }
        self.keep_of_any(request, response, times)
    }

    /// As [`keep`](Rules::keep), whatever the method: the caller tells methods apart.
    fn keep_of_any(&self, request: &Request, response: &Response, times: &Times) -> Result<Kept, Refusal> {
        let (status, headers) = (response.status, &response.headers);
        let targeted = self.targeted.iter().find_map(|field| ResponseControl::targeted(headers, field));
        let is_targeted = targeted.is_some();
        let control = targeted.unwrap_or_else(|| ResponseControl::of(headers));
        let (vary, tags) = self.permit(request, response, &control)?;
        let lifetime = explicit_lifetime(&control, is_targeted, headers, times)
            .or_else(|| self.lifetimes.iter().find(|(codes, _)| codes.contains(&status)).map(|(_, life)| *life))
            .or_else(|| {
                let may = is_heuristically_cacheable(status) || control.public;
                heuristic_lifetime(self.heuristic.as_ref().filter(|_| may)?, headers, times)
            });
        let lifetime = match lifetime {
            Some(lifetime) => lifetime,
            // What must be validated each time needs no lifetime.
            None if control.no_cache && is_heuristically_cacheable(status) => Duration::ZERO,
            None => return Err(Refusal::NoLifetime),
        };
        let strict = control.must_revalidate || control.proxy_revalidate;
        // A shared lifetime forbids what is stale (section 5.2.2.10), unless the same answer allows it (RFC 5861).
        let shared = control.s_maxage.is_some() && !is_targeted;
        let allowed = |said: Option<u32>, otherwise: Duration| match said {
            _ if strict || control.no_cache => Duration::ZERO,
            Some(seconds) => Duration::from_secs(seconds.into()),
            None if shared => Duration::ZERO,
            None => otherwise,
        };
        let kept = Kept {
            status,
            headers: headers.clone(),
            vary,
            tags,
            freshness: Freshness {
                received: times.received,
                initial_age: initial_age(headers, times),
                lifetime: self.lifetime_most.map_or(lifetime, |most| lifetime.min(most)),
            },
            no_cache: control.no_cache,
            must_revalidate: strict || shared,
            stale_while_revalidate: allowed(control.stale_while_revalidate, self.stale_while_revalidate),
            stale_if_error: allowed(control.stale_if_error, self.stale_if_error),
            last_modified: headers.value("Last-Modified").and_then(date),
            date: date_of(headers).unwrap_or(times.unix_seconds),
        };
        if !kept.is_of_use(times.received) {
            return Err(Refusal::Useless);
        }
        Ok(self.stripped(kept, &control, times))
    }

    /// Nothing forbids that others get it: what it varies with, and its tags.
    fn permit(
        &self,
        request: &Request,
        response: &Response,
        control: &ResponseControl,
    ) -> Result<(Vary, Vec<Box<str>>), Refusal> {
        let (status, headers) = (response.status, &response.headers);
        if status < 200 || matches!(status, 206 | 304) || control.must_understand && !is_understood(status) {
            return Err(Refusal::Status);
        }
        // It says that the range this one wants is not there, and nothing of the whole.
        if status == 416 && request.headers.contains("Range") {
            return Err(Refusal::Status);
        }
        if RequestControl::of(&request.headers).no_store {
            return Err(Refusal::RequestNoStore);
        }
        if control.no_store && !control.must_understand {
            return Err(Refusal::NoStore);
        }
        if control.private {
            return Err(Refusal::Private);
        }
        let for_others = control.public || control.must_revalidate || control.s_maxage.is_some();
        if request.headers.has_alike(b"Authorization") && !for_others {
            return Err(Refusal::Authorization);
        }
        let sets_cookie = headers.has_alike(b"Set-Cookie") || headers.has_alike(b"Set-Cookie2");
        let is_withheld = control.withheld.iter().any(|withheld| withheld == "set-cookie");
        if sets_cookie && self.cookies == Cookies::Refuse && !is_withheld {
            return Err(Refusal::SetCookie);
        }
        let vary = Vary::of(headers, &request.headers).ok_or(Refusal::Vary)?;
        Ok((vary, tags::of(headers).ok_or(Refusal::Tags)?))
    }

    /// Without the fields that are of one exchange, or that must not be kept; and with a Date.
    fn stripped(&self, mut kept: Kept, control: &ResponseControl, times: &Times) -> Kept {
        let strip = |name: &[u8]| {
            let is = |other: &str| is_spelled_alike(name, other.as_bytes());
            NOT_KEPT.iter().any(|other| is(other))
                || control.withheld.iter().any(|withheld| is(withheld))
                || self.cookies == Cookies::Strip && (is("Set-Cookie") || is("Set-Cookie2"))
        };
        kept.headers.retain(|name| !strip(name));
        if kept.headers.known(Known::Date).is_none() {
            let now = UNIX_EPOCH + Duration::from_secs(times.unix_seconds.min(LAST_SECOND));
            kept.headers.add("Date", httpdate::fmt_http_date(now));
        }
        kept
    }
}

/// What is to be kept of an answer for a fixed time, whatever it says of its freshness: Easegress's `memoryCache`. Prohibitions are heard,
/// theirs (no-store, no-cache, must-revalidate, one origin only) and those that keep private answers private.
pub fn keep_for(lifetime: Duration, request: &Request, response: &Response, times: &Times) -> Result<Kept, Refusal> {
    let (headers, control) = (&response.headers, ResponseControl::of(&response.headers));
    if RequestControl::of(&request.headers).no_cache {
        return Err(Refusal::RequestNoStore);
    }
    if control.no_cache || control.must_revalidate {
        return Err(Refusal::NoStore);
    }
    if headers.value("Access-Control-Allow-Origin").is_some_and(|allowed| allowed.trim_ascii() != b"*") {
        return Err(Refusal::OneOrigin);
    }
    let rules = Rules::default();
    let (vary, tags) = rules.permit(request, response, &control)?;
    let kept = Kept {
        status: response.status,
        headers: headers.clone(),
        vary,
        tags,
        freshness: Freshness { received: times.received, initial_age: Duration::ZERO, lifetime },
        no_cache: false,
        must_revalidate: true,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        last_modified: headers.value("Last-Modified").and_then(date),
        date: date_of(headers).unwrap_or(times.unix_seconds),
    };
    Ok(rules.stripped(kept, &control, times))
}

/// 9999-12-31T23:59:59Z: the form has four digits for the year.
const LAST_SECOND: u64 = 253_402_300_799;

/// Fields that are of one exchange and not of what is kept of it, beside those of the hop (RFC 9111 section 3.1).
const NOT_KEPT: [&str; 5] =
    ["Age", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Surrogate-Control"];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut request = Request::default();
        fields.iter().for_each(|(name, value)| request.headers.add(name, value));
        request
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> Response {
        let mut response = Response::with_status(status);
        fields.iter().for_each(|(name, value)| response.headers.add(name, value));
        response
    }

    fn keep_by(rules: &Rules, asked: &[(&str, &str)], status: u16, fields: &[(&str, &str)]) -> Result<Kept, Refusal> {
        let now = Instant::now();
        let times = Times { asked: now, received: now, unix_seconds: 784_111_777 };
        rules.keep(&request(asked), &response(status, fields), &times)
    }

    fn keep(asked: &[(&str, &str)], status: u16, fields: &[(&str, &str)]) -> Result<u64, Refusal> {
        let heuristic = Some(Heuristic { percent: 10, most: Duration::from_secs(3600) });
        let rules = Rules { heuristic, ..Rules::default() };
        keep_by(&rules, asked, status, fields).map(|kept| kept.freshness.lifetime.as_secs())
    }

    #[test]
    fn a_range_that_is_not_there_is_no_answer_for_others() {
        assert_eq!(keep(&[("Range", "bytes=99999-")], 416, &[FRESH]), Err(Refusal::Status));
        assert_eq!(keep(&[], 416, &[FRESH]), Ok(60));
        assert_eq!(keep(&[("Range", "bytes=0-1")], 200, &[FRESH]), Ok(60), "the whole of it");
    }

    const FRESH: (&str, &str) = ("Cache-Control", "max-age=60");
    const CHANGED: (&str, &str) = ("Last-Modified", "Sun, 06 Nov 1994 08:47:57 GMT");

    #[test]
    fn what_says_how_long_it_is_fresh_is_kept_whatever_its_status() {
        for status in [200, 203, 204, 299, 301, 302, 308, 400, 404, 499, 500, 503, 599] {
            assert_eq!(keep(&[], status, &[FRESH]), Ok(60), "{status}");
        }
        for status in [100, 101, 206, 304] {
            assert_eq!(keep(&[], status, &[FRESH]), Err(Refusal::Status), "{status}");
        }
    }

    #[test]
    fn nothing_private_is_kept() {
        let authorized = &[("Authorization", "Basic x")][..];
        for (asked, fields, why) in [
            (&[][..], &[("Cache-Control", "private, max-age=60")][..], Refusal::Private),
            (&[], &[("Cache-Control", "no-store, max-age=60")], Refusal::NoStore),
            (&[("Cache-Control", "no-store")], &[FRESH], Refusal::RequestNoStore),
            (&[], &[FRESH, ("Set-Cookie", "a=b")], Refusal::SetCookie),
            (&[], &[FRESH, ("set_cookie", "a=b")], Refusal::SetCookie),
            (&[], &[FRESH, ("Vary", "A, *")], Refusal::Vary),
            (&[], &[FRESH, ("Vary", "A"), ("Vary", "*")], Refusal::Vary),
            (authorized, &[FRESH], Refusal::Authorization),
            (authorized, &[("Cache-Control", "max-age=60, proxy-revalidate")], Refusal::Authorization),
        ] {
            assert_eq!(keep(asked, 200, fields), Err(why), "{asked:?} {fields:?}");
        }
        for said in ["public, max-age=60", "must-revalidate, max-age=60", "s-maxage=60"] {
            assert_eq!(keep(authorized, 200, &[("Cache-Control", said)]), Ok(60), "{said}");
        }
    }

    #[test]
    fn without_a_word_only_what_rarely_changes_is_fresh_for_a_while() {
        for status in [200, 203, 204, 404, 405, 410, 414, 501] {
            assert_eq!(keep(&[], status, &[CHANGED]), Ok(10), "{status}");
        }
        for status in [201, 202, 302, 403, 500, 502, 503, 504, 599] {
            assert_eq!(keep(&[], status, &[CHANGED]), Err(Refusal::NoLifetime), "{status}");
        }
        assert_eq!(keep(&[], 599, &[CHANGED, ("Cache-Control", "public")]), Ok(10));
        assert_eq!(keep(&[], 200, &[("ETag", "\"a\"")]), Err(Refusal::NoLifetime));
        assert_eq!(keep(&[], 200, &[("Cache-Control", "max-age=0")]), Err(Refusal::Useless));
        assert_eq!(keep(&[], 200, &[("Cache-Control", "max-age=0"), CHANGED]), Ok(0));
        assert_eq!(keep(&[], 200, &[("Cache-Control", "no-cache"), ("ETag", "\"a\"")]), Ok(0));
    }

    #[test]
    fn the_operators_rules_hold_where_the_answer_says_nothing() {
        let rules = Rules {
            lifetimes: vec![(404..=404, Duration::from_secs(5)), (500..=599, Duration::from_secs(1))],
            lifetime_most: Some(Duration::from_secs(30)),
            ..Rules::default()
        };
        let life = |status, fields: &[(&str, &str)]| {
            keep_by(&rules, &[], status, fields).map(|kept| kept.freshness.lifetime.as_secs())
        };
        assert_eq!((life(404, &[]), life(503, &[])), (Ok(5), Ok(1)));
        assert_eq!((life(404, &[FRESH]), life(200, &[])), (Ok(30), Err(Refusal::NoLifetime)));
        assert_eq!(life(404, &[("Cache-Control", "no-store")]), Err(Refusal::NoStore));
    }

    #[test]
    fn a_status_that_must_be_understood_is_known_or_not_kept() {
        let said = [("Cache-Control", "max-age=60, must-understand, no-store")];
        assert_eq!((keep(&[], 200, &said), keep(&[], 599, &said)), (Ok(60), Err(Refusal::Status)));
    }

    #[test]
    fn a_fixed_time_whatever_it_says_but_what_it_forbids() {
        let now = Instant::now();
        let times = Times { asked: now, received: now, unix_seconds: 784_111_777 };
        let kept = |asked: &[(&str, &str)], fields: &[(&str, &str)]| {
            let (request, response) = (request(asked), response(200, fields));
            keep_for(Duration::from_secs(5), &request, &response, &times).map(|kept| kept.freshness.left(now).as_secs())
        };
        for fields in [&[][..], &[("Cache-Control", "max-age=0")], &[("Age", "7"), ("Expires", "0")], &[("Vary", "A")]]
        {
            assert_eq!(kept(&[], fields), Ok(5), "{fields:?}");
        }
        assert_eq!(kept(&[], &[("Access-Control-Allow-Origin", "*")]), Ok(5));
        for (asked, fields, why) in [
            (&[("Cache-Control", "no-cache")][..], &[][..], Refusal::RequestNoStore),
            (&[("Cache-Control", "no-store")], &[], Refusal::RequestNoStore),
            (&[("Authorization", "x")], &[], Refusal::Authorization),
            (&[], &[("Cache-Control", "no-store")], Refusal::NoStore),
            (&[], &[("Cache-Control", "no-cache")], Refusal::NoStore),
            (&[], &[("Cache-Control", "must-revalidate")], Refusal::NoStore),
            (&[], &[("Cache-Control", "private")], Refusal::Private),
            (&[], &[("Access-Control-Allow-Origin", "http://a")], Refusal::OneOrigin),
            (&[], &[("Set-Cookie", "a=b")], Refusal::SetCookie),
            (&[], &[("Vary", "*")], Refusal::Vary),
        ] {
            assert_eq!(kept(asked, fields), Err(why), "{asked:?} {fields:?}");
        }
    }

    #[test]
    fn fields_of_the_one_exchange_are_left_out() {
        let said = ("Cache-Control", "max-age=60, no-cache=\"X-User\", private=\"Set-Cookie\"");
        let fields = [said, ("Age", "3"), ("X-User", "u"), ("Set-Cookie", "a=b"), ("X-Kept", "1")];
        let kept = keep_by(&Rules::default(), &[], 200, &fields).unwrap();
        let names: Vec<_> = kept.headers.iter().map(|(name, _, _)| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, ["Cache-Control", "X-Kept", "Date"]);
        assert_eq!(kept.freshness.initial_age, Duration::from_secs(3));
        for (cookies, there) in [(Cookies::Strip, false), (Cookies::Keep, true)] {
            let rules = Rules { cookies, ..Rules::default() };
            let kept = keep_by(&rules, &[], 200, &[FRESH, ("Set-Cookie", "a=b")]).unwrap();
            assert_eq!(kept.headers.contains("Set-Cookie"), there);
        }
    }
}
