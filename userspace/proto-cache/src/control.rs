//! Cache-Control and its kin: lists of directives, read so that a doubt makes an answer less fresh.

use proto_http::Headers;
use proto_http::headers::is_name;

/// Longest time a directive can name, in seconds: 68 years, as RFC 9111 section 1.2.2 would have an overflow be.
pub const SECONDS_MOST: u32 = 1 << 31;

/// What a client asks of caches (RFC 9111 section 5.2.1). What cannot be read is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestControl {
    pub no_cache: bool,
    pub no_store: bool,
    pub only_if_cached: bool,
    /// Greatest age, in seconds.
    pub max_age: Option<u32>,
    /// Greatest time an answer may be stale, in seconds.
    pub max_stale: Option<u32>,
    /// Least time an answer must stay fresh, in seconds.
    pub min_fresh: Option<u32>,
    /// As the answer's, RFC 5861 section 4.
    pub stale_if_error: Option<u32>,
}

impl RequestControl {
    pub fn of(headers: &Headers) -> RequestControl {
        let mut control = RequestControl::default();
        for line in headers.values("Cache-Control") {
            for directive in Directives::of(line).filter(|directive| directive.sound) {
                let seconds = directive.seconds();
                match () {
                    () if directive.is("no-cache") => control.no_cache = true,
                    () if directive.is("no-store") => control.no_store = true,
                    () if directive.is("only-if-cached") => control.only_if_cached = true,
                    () if directive.is("max-age") => control.max_age = least(control.max_age, seconds),
                    () if directive.is("max-stale") => {
                        let all = directive.argument.is_none().then_some(SECONDS_MOST);
                        control.max_stale = least(control.max_stale, all.or(seconds));
                    }
                    () if directive.is("min-fresh") => control.min_fresh = control.min_fresh.max(seconds),
                    () if directive.is("stale-if-error") => {
                        control.stale_if_error = least(control.stale_if_error, seconds);
                    }
                    () => {}
                }
            }
        }
        control
    }
}

/// What an answer allows (RFC 9111 section 5.2.2, RFC 5861, RFC 8246). Of two that contradict each other the stricter one counts; a
/// time that cannot be read is none at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    /// In seconds, as all times.
    pub max_age: Option<u32>,
    pub s_maxage: Option<u32>,
    pub stale_while_revalidate: Option<u32>,
    pub stale_if_error: Option<u32>,
    /// Fields that `no-cache="…"` and `private="…"` name: they are not kept.
    pub withheld: Vec<String>,
}

/// Whom directives are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For<'a> {
    /// Any cache.
    All,
    /// Those without a target, and those with this one (`max-age=60;weir` in Surrogate-Control).
    Surrogate(&'a str),
}

impl ResponseControl {
    /// What Cache-Control says.
    pub fn of(headers: &Headers) -> ResponseControl {
        ResponseControl::of_field(headers, "Cache-Control", For::All).unwrap_or_default()
    }

    /// What a targeted field says (RFC 9213, or the older Surrogate-Control); `None` where it is not there or says nothing that can be
    /// read, so that the next one counts.
    pub fn targeted(headers: &Headers, field: &str) -> Option<ResponseControl> {
        let whom = if field.eq_ignore_ascii_case("Surrogate-Control") { For::Surrogate(SURROGATE) } else { For::All };
        ResponseControl::of_field(headers, field, whom)
    }

    fn of_field(headers: &Headers, field: &str, whom: For<'_>) -> Option<ResponseControl> {
        let mut control = ResponseControl::default();
        let mut any = false;
        for line in headers.values(field) {
            for directive in Directives::of(line) {
                if matches!(whom, For::Surrogate(own) if directive.target.is_some_and(|target| target != own.as_bytes()))
                {
                    continue;
                }
                any = true;
                control.take(&directive);
            }
        }
        any.then_some(control)
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let time = || Some(if directive.sound { directive.seconds().unwrap_or(0) } else { 0 });
        match () {
            () if directive.is("no-store") => self.no_store = true,
            () if directive.is("no-cache") => match directive.fields() {
                Some(fields) => self.withheld.extend(fields),
                None => self.no_cache = true,
            },
            () if directive.is("private") => match directive.fields() {
                Some(fields) => self.withheld.extend(fields),
                None => self.private = true,
            },
            () if directive.is("must-revalidate") => self.must_revalidate = true,
            () if directive.is("proxy-revalidate") => self.proxy_revalidate = true,
            () if directive.is("must-understand") => self.must_understand = true,
            () if directive.is("max-age") => self.max_age = least(self.max_age, time()),
            () if directive.is("s-maxage") => self.s_maxage = least(self.s_maxage, time()),
            () if directive.is("stale-while-revalidate") => {
                self.stale_while_revalidate = least(self.stale_while_revalidate, time());
            }
            () if directive.is("stale-if-error") => self.stale_if_error = least(self.stale_if_error, time()),
            // What makes an answer more cacheable must be said properly.
            () if directive.sound && directive.is("public") => self.public = true,
            () => {}
        }
    }
}

/// What we are called where a directive is for one surrogate only, and in Surrogate-Capability.
pub const SURROGATE: &str = "weir";

fn least(known: Option<u32>, more: Option<u32>) -> Option<u32> {
    match (known, more) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// One directive: a name, and maybe an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive<'a> {
    /// Without blanks around it.
    pub name: &'a [u8],
    /// What follows `=`, without quotes; escapes are left in.
    pub argument: Option<&'a [u8]>,
    /// After `;`: whom it is for.
    pub target: Option<&'a [u8]>,
    /// It is as the grammar wants it: no blanks beside `=`, quotes that end.
    pub sound: bool,
}

impl<'a> Directive<'a> {
    fn of(element: &'a [u8]) -> Directive<'a> {
        let (name, rest) = match element.iter().position(|&b| b == b'=' || b == b';') {
            Some(at) => (&element[..at], &element[at..]),
            None => (element, &[][..]),
        };
        let (argument, target) = match rest.first() {
            Some(b'=') => {
                let (argument, target) = cut(&rest[1..], b';');
                (Some(argument), target)
            }
            Some(_) => (None, Some(&rest[1..])),
            None => (None, None),
        };
        let mut sound = is_name(name);
        let argument = argument.map(|text| match unquoted(text) {
            Some(inside) => inside,
            None => {
                sound &= is_name(text);
                text
            }
        });
        Directive { name: trim(name), argument, target: target.map(trim), sound }
    }

    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The argument as seconds, no more than [`SECONDS_MOST`]; `None` where it is not a number.
    pub fn seconds(&self) -> Option<u32> {
        seconds(self.argument?)
    }

    /// The field names in the argument, in lower case; `None` where there is none that can be read, so that the whole answer is meant.
    fn fields(&self) -> Option<Vec<String>> {
        let names: Vec<&[u8]> = self.argument?.split(|&b| b == b',').map(trim).collect();
        let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
        names.iter().all(|name| is_name(name)).then(|| names.into_iter().map(lower).collect())
    }
}

/// A number of seconds (RFC 9111 section 1.2.2), no more than [`SECONDS_MOST`].
pub fn seconds(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().fold(0u32, |n, &b| n.saturating_mul(10).saturating_add(u32::from(b - b'0')));
    Some(number.min(SECONDS_MOST))
}

/// The elements of a list that may hold quoted strings. An end without a closing quote ends the element.
#[derive(Clone, Debug)]
pub struct Directives<'a>(&'a [u8]);

impl<'a> Directives<'a> {
    pub fn of(line: &'a [u8]) -> Directives<'a> {
        Directives(line)
    }
}

impl<'a> Iterator for Directives<'a> {
    type Item = Directive<'a>;

    fn next(&mut self) -> Option<Directive<'a>> {
        loop {
            if self.0.is_empty() {
                return None;
            }
            let (element, rest) = cut(self.0, b',');
            self.0 = rest.unwrap_or_default();
            let element = trim(element);
            if !element.is_empty() {
                return Some(Directive::of(element));
            }
        }
    }
}

/// What is before the first `mark` outside quotes, and what is after it.
pub(crate) fn cut(text: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &b) in text.iter().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if b == mark && !quoted => return (&text[..at], Some(&text[at + 1..])),
            _ => {}
        }
    }
    (text, None)
}

fn unquoted(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

pub(crate) fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(lines: &[&str]) -> ResponseControl {
        ResponseControl::of(&headers("Cache-Control", lines))
    }

    fn headers(name: &str, lines: &[&str]) -> Headers {
        let mut headers = Headers::new();
        lines.iter().for_each(|line| headers.add(name, line));
        headers
    }

    #[test]
    fn times_are_the_strictest_and_doubtful_ones_are_none() {
        for (lines, seconds) in [
            (&["max-age=60"][..], Some(60)),
            (&["MaX-AgE=60"], Some(60)),
            (&["max-age=\"60\""], Some(60)),
            (&["max-age=060"], Some(60)),
            (&["max-age=99999999999"], Some(SECONDS_MOST)),
            (&["max-age=60, max-age=1"], Some(1)),
            (&["max-age=1", "max-age=60"], Some(1)),
            (&["max-age='60'"], Some(0)),
            (&["max-age=60.0"], Some(0)),
            (&["max-age=-60"], Some(0)),
            (&["max-age=a60"], Some(0)),
            (&["max-age =60"], Some(0)),
            (&["max-age= 60"], Some(0)),
            (&["max-age"], Some(0)),
            (&["max-age="], Some(0)),
            (&["max-age=\"60"], Some(0)),
            (&["a=\"max-age=60\""], None),
            (&["a=\"x, max-age=60, y\", max-age=1"], Some(1)),
            (&["a=\"\\\", max-age=60\", b"], None),
            (&[",,, ,max-age=5,"], Some(5)),
        ] {
            assert_eq!(response(lines).max_age, seconds, "{lines:?}");
        }
    }

    #[test]
    fn prohibitions_are_heard_even_when_badly_said_and_permissions_are_not() {
        let control = response(&["No-Store=x y, private=, must-revalidate;a, public =1"]);
        assert!(control.no_store && control.private && control.must_revalidate && !control.public);
        let control = response(&["private=\"Set-Cookie, X-User\", no-cache=\"a\""]);
        assert!(!control.private && !control.no_cache);
        assert_eq!(control.withheld, ["set-cookie", "x-user", "a"]);
        assert!(response(&["private"]).private && response(&["no-cache"]).no_cache);
    }

    #[test]
    fn a_targeted_field_goes_before_unless_it_says_nothing() {
        let targeted = |name: &str, line: &str| ResponseControl::targeted(&headers(name, &[line]), name);
        assert_eq!(targeted("CDN-Cache-Control", "max-age=7").unwrap().max_age, Some(7));
        assert_eq!(targeted("CDN-Cache-Control", " , "), None);
        assert_eq!(targeted("Surrogate-Control", "max-age=7;other"), None);
        assert_eq!(targeted("Surrogate-Control", "max-age=7;other, max-age=9;weir").unwrap().max_age, Some(9));
    }

    #[test]
    fn what_clients_ask_for_is_heard_when_it_can_be_read() {
        let of = |line: &str| RequestControl::of(&headers("Cache-Control", &[line]));
        let control = of("no-cache, max-age=5, min-fresh=7, max-stale, stale-if-error=9");
        let expected = RequestControl {
            no_cache: true,
            max_age: Some(5),
            min_fresh: Some(7),
            max_stale: Some(SECONDS_MOST),
            stale_if_error: Some(9),
            ..RequestControl::default()
        };
        assert_eq!(control, expected);
        assert_eq!(of("max-age=x, max-stale=y, no-cache =1, nothing-to-see-here"), RequestControl::default());
    }
}
