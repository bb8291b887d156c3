//! The `Date` field's text, made once a second and not once an answer.

use std::time::{Duration, UNIX_EPOCH};

/// A date in the preferred form of RFC 9110 section 5.6.7 (IMF-fixdate), kept until the second changes.
#[derive(Clone, Debug)]
pub struct ImfDate {
    unix_seconds: u64,
    text: String,
}

impl ImfDate {
    pub fn new(unix_seconds: u64) -> ImfDate {
        ImfDate { unix_seconds, text: text(unix_seconds) }
    }

    /// Takes the time in; free while the second stays the same.
    pub fn refresh(&mut self, unix_seconds: u64) -> &str {
        if self.unix_seconds != unix_seconds {
            *self = ImfDate::new(unix_seconds);
        }
        &self.text
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn text(unix_seconds: u64) -> String {
    // httpdate panics beyond year 9999.
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST_SECOND)))
}

/// 9999-12-31T23:59:59Z: the form has four digits for the year.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_follows_the_second() {
        let mut date = ImfDate::new(784_111_777);
        assert_eq!(date.as_str(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date.refresh(784_111_778), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(date.refresh(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
