//! What is kept and given again, against a model that is written another way; and what holds of any bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proto_cache::{Heuristic, RequestControl, Rules, Times, Use, may_stand_in, use_of};
use proto_http::{Request, Response};
use std::time::{Duration, Instant};

#[path = "../../fuzz/checks/cache_fields.rs"]
mod cache_fields;

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        cache_fields::check(&bytes);
    }

    #[test]
    fn any_words(lines in vec(line(), 0..12)) {
        cache_fields::check(lines.join("\n").as_bytes());
    }

    #[test]
    fn a_cache_does_as_the_model(answer in answer(), asked in asked(), age in 0u64..200, wait in 0u64..200) {
        let model = answer.model(&asked, age, wait);
        prop_assert_eq!(answer.engine(&asked, age, wait), model, "{:?} {:?}", answer, asked);
    }
}

/// Lines that mean something, of either message; an empty one parts the two.
fn line() -> impl Strategy<Value = String> {
    let names = prop_oneof![
        Just("Cache-Control"),
        Just("CDN-Cache-Control"),
        Just("Surrogate-Control"),
        Just("Vary"),
        Just("Age"),
        Just("Expires"),
        Just("Date"),
        Just("ETag"),
        Just("Last-Modified"),
        Just("If-None-Match"),
        Just("If-Modified-Since"),
        Just("Range"),
        Just("If-Range"),
        Just("Authorization"),
        Just("Set-Cookie"),
        Just("Location"),
        Just("X-Forwarded-Host"),
        Just("Forwarded"),
        Just("Accept-Encoding"),
        Just("Cache-Tag"),
        Just("Surrogate-Key"),
        Just("Access-Control-Allow-Origin"),
    ];
    let word = prop_oneof![
        Just("max-age"),
        Just("s-maxage"),
        Just("="),
        Just("60"),
        Just("0"),
        Just(","),
        Just(" "),
        Just("no-cache"),
        Just("no-store"),
        Just("private"),
        Just("public"),
        Just("must-revalidate"),
        Just("proxy-revalidate"),
        Just("\""),
        Just("\\"),
        Just(";"),
        Just("weir"),
        Just("stale-while-revalidate"),
        Just("stale-if-error"),
        Just("min-fresh"),
        Just("max-stale"),
        Just("bytes"),
        Just("-"),
        Just("*"),
        Just("W/"),
        Just("a"),
        Just("Sun, 06 Nov 1994 08:49:37 GMT"),
        Just("//h.test/"),
        Just("host"),
        Just("gzip"),
        Just("q"),
        Just("must-understand"),
        Just("99999999999999999999"),
    ];
    prop_oneof![
        1 => Just(String::new()),
        9 => (names, vec(word, 0..8)).prop_map(|(name, words)| format!("{name}: {}", words.concat())),
    ]
}

/// An answer of an origin, as what it means.
#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    max_age: Option<u64>,
    s_maxage: Option<u64>,
    no_store: bool,
    no_cache: bool,
    private: bool,
    public: bool,
    must_revalidate: bool,
    while_revalidate: Option<u64>,
    if_error: Option<u64>,
    etag: bool,
    authorized: bool,
    cookie: bool,
}

prop_compose! {
    fn answer()(
        status in prop::sample::select(vec![200u16, 206, 302, 404, 500]),
        (max_age, s_maxage) in (prop::option::of(0u64..150), prop::option::weighted(0.3, 0u64..150)),
        (no_store, no_cache, private) in (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        (public, must_revalidate) in (prop::bool::weighted(0.3), prop::bool::weighted(0.2)),
        (while_revalidate, if_error) in (prop::option::weighted(0.4, 0u64..150), prop::option::weighted(0.4, 0u64..150)),
        (etag, authorized, cookie) in (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1)),
    ) -> Answer {
        Answer {
            status, max_age, s_maxage, no_store, no_cache, private, public, must_revalidate, while_revalidate, if_error, etag,
            authorized, cookie,
        }
    }
}

/// What a later request asks for.
#[derive(Debug, Clone)]
struct Later {
    no_cache: bool,
    max_age: Option<u64>,
    min_fresh: Option<u64>,
    max_stale: Option<u64>,
}

prop_compose! {
    fn asked()(
        no_cache in prop::bool::weighted(0.1),
        max_age in prop::option::weighted(0.2, 0u64..200),
        min_fresh in prop::option::weighted(0.2, 0u64..200),
        max_stale in prop::option::weighted(0.3, 0u64..200),
    ) -> Later {
        Later { no_cache, max_age, min_fresh, max_stale }
    }
}

/// What becomes of the later request, and whether the answer would stand in for an origin that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotKept,
    Kept(&'static str, bool),
}

impl Answer {
    /// In plain words of RFC 9111 and RFC 5861; ages are whole seconds.
    fn model(&self, asked: &Later, age: u64, wait: u64) -> Fate {
        let forbidden = self.status == 206
            || self.no_store
            || self.private
            || self.cookie
            || self.authorized && !self.public && !self.must_revalidate && self.s_maxage.is_none();
        let lifetime = match (self.s_maxage, self.max_age) {
            (Some(shared), _) => shared,
            (None, Some(own)) => own,
            // Nothing but being asked each time, where that is usual for the status.
            (None, None) if self.no_cache && matches!(self.status, 200 | 404) => 0,
            (None, None) => return Fate::NotKept,
        };
        let never_stale = self.must_revalidate || self.no_cache;
        let window = |said: Option<u64>| if never_stale { 0 } else { said.unwrap_or(0) };
        let (swr, sie) = (window(self.while_revalidate), window(self.if_error));
        let useful = self.etag || !self.no_cache && age < lifetime + swr.max(sie);
        if forbidden || !useful {
            return Fate::NotKept;
        }
        let old = age + wait;
        let stale_by = old.saturating_sub(lifetime);
        let fresh = old < lifetime;
        let stands_in = !self.no_cache && (fresh || stale_by < sie);
        let refused = self.no_cache || asked.no_cache || asked.max_age.is_some_and(|most| most == 0 || old > most);
        let how = if refused {
            "validate"
        } else if fresh {
            if asked.min_fresh.is_none_or(|least| lifetime - old >= least) { "fresh" } else { "validate" }
        } else if asked.min_fresh.is_some() {
            "validate"
        } else if stale_by < swr {
            "while"
        } else if !self.must_revalidate
            && self.s_maxage.is_none()
            && asked.max_stale.is_some_and(|most| stale_by <= most)
        {
            "stale"
        } else {
            "validate"
        };
        Fate::Kept(how, stands_in)
    }

    fn engine(&self, asked: &Later, age: u64, wait: u64) -> Fate {
        let mut words = Vec::new();
        let mut say = |word: &str, when: bool| words.extend(when.then(|| word.to_owned()));
        say("no-store", self.no_store);
        say("no-cache", self.no_cache);
        say("private", self.private);
        say("public", self.public);
        say("must-revalidate", self.must_revalidate);
        let times = [
            ("max-age", self.max_age),
            ("s-maxage", self.s_maxage),
            ("stale-while-revalidate", self.while_revalidate),
            ("stale-if-error", self.if_error),
        ];
        words.extend(times.iter().filter_map(|(name, time)| time.map(|time| format!("{name}={time}"))));
        let mut response = Response::with_status(self.status);
        response.headers.add("Cache-Control", words.join(", "));
        response.headers.add("Age", age.to_string());
        if self.etag {
            response.headers.add("ETag", "\"a\"");
        }
        if self.cookie {
            response.headers.add("Set-Cookie", "a=b");
        }
        let mut request = Request::default();
        if self.authorized {
            request.headers.add("Authorization", "Basic x");
        }
        let now = Instant::now();
        let times = Times { asked: now, received: now, unix_seconds: 784_111_777 };
        let rules = Rules { heuristic: Some(Heuristic { percent: 10, most: Duration::MAX }), ..Rules::default() };
        let Ok(kept) = rules.keep(&request, &response, &times) else { return Fate::NotKept };

        let mut later = Request::default();
        let mut words = vec![];
        words.extend(asked.no_cache.then(|| "no-cache".to_owned()));
        let times = [("max-age", asked.max_age), ("min-fresh", asked.min_fresh), ("max-stale", asked.max_stale)];
        words.extend(times.iter().filter_map(|(name, time)| time.map(|time| format!("{name}={time}"))));
        later.headers.add("Cache-Control", words.join(", "));
        let (control, then) = (RequestControl::of(&later.headers), now + Duration::from_secs(wait));
        let how = match use_of(&kept, &control, then) {
            Use::Fresh => "fresh",
            Use::Stale => "stale",
            Use::WhileFetching => "while",
            Use::AfterValidation => "validate",
        };
        Fate::Kept(how, may_stand_in(&kept, &control, then))
    }
}
