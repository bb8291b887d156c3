//! What a cache has done with a request, for clients and operators (RFC 9211).

use std::fmt::Write as _;

/// Why a request went to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The cache does not look at such requests.
    Bypass,
    Method,
    /// Nothing is kept under its URL.
    UriMiss,
    /// Something is, for other requests.
    VaryMiss,
    Stale,
    /// The client wants to hear it from the origin.
    Request,
}

impl Forward {
    fn word(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Stale => "stale",
            Forward::Request => "request",
        }
    }
}

/// One member of Cache-Status, without the name of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    pub hit: bool,
    pub forward: Option<Forward>,
    /// The origin's status, where it is not the answer's.
    pub forward_status: Option<u16>,
    pub stored: bool,
    pub collapsed: bool,
    /// Seconds it stays fresh; negative when it is stale.
    pub ttl: Option<i64>,
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    /// As a member of the list, under the name of the cache.
    pub fn text(&self, cache: &str) -> String {
        let mut text = cache.to_owned();
        if self.hit {
            text.push_str("; hit");
        }
        if let Some(forward) = self.forward {
            let _ = write!(text, "; fwd={}", forward.word());
        }
        if let Some(status) = self.forward_status {
            let _ = write!(text, "; fwd-status={status}");
        }
        if self.stored {
            text.push_str("; stored");
        }
        if self.collapsed {
            text.push_str("; collapsed");
        }
        if let Some(ttl) = self.ttl {
            let _ = write!(text, "; ttl={ttl}");
        }
        if let Some(detail) = self.detail {
            let _ = write!(text, "; detail={detail}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_member_with_parameters() {
        let hit = CacheStatus { hit: true, ttl: Some(-5), ..CacheStatus::default() };
        assert_eq!(hit.text("weir"), "weir; hit; ttl=-5");
        let miss = CacheStatus {
            forward: Some(Forward::Stale),
            forward_status: Some(304),
            stored: true,
            collapsed: true,
            ..CacheStatus::default()
        };
        assert_eq!(miss.text("weir"), "weir; fwd=stale; fwd-status=304; stored; collapsed");
    }
}
