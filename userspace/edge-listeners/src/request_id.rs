//! `X-Request-Id`: a client's that may be believed to be one, or one that is made.

use base_model::RequestIds;
use edge_pipeline::Exchange;
use proto_http::{Known, Response};
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};

pub const NAME: &str = "X-Request-Id";

/// Longest id taken from a client, in bytes.
const LENGTH_MOST: usize = 128;

/// Hexadecimal digits of an id that is made: drawn once for each worker, and counted.
const DRAWN: usize = 16;
const COUNTED: usize = 10;

/// Sees that the request has an id; says whether what the client gave as one was none.
pub fn settle(exchange: &mut Exchange, ids: RequestIds) -> bool {
    if ids == RequestIds::Off {
        return false;
    }
    let request = &mut exchange.default_space().request;
    let mut given = request.headers.known_all(Known::XRequestId);
    let (first, more) = (given.next(), given.next().is_some());
    drop(given);
    let Some(first) = first else {
        make(&mut exchange.id);
        let id = std::mem::take(&mut exchange.id);
        exchange.default_space().request.headers.add_known_clean(Known::XRequestId, NAME, &id);
        exchange.id = id;
        return false;
    };
    let taken = ids == RequestIds::Accept && !more && is_id(first);
    let mut id = std::mem::take(&mut exchange.id);
    id.clear();
    let request = &mut exchange.default_space().request;
    if taken {
        id.extend_from_slice(request.headers.known(Known::XRequestId).unwrap_or_default());
    } else {
        make(&mut id);
        request.headers.set(NAME, &id);
    }
    exchange.id = id;
    !taken && ids == RequestIds::Accept
}

/// Says it in an answer. A backend may have said another one, or a cache keep one of before.
pub fn tell(id: &[u8], response: &mut Response) {
    if id.is_empty() {
        return;
    }
    if response.headers.known(Known::XRequestId).is_some() {
        response.headers.set(NAME, id);
    } else {
        response.headers.add_known_clean(Known::XRequestId, NAME, id);
    }
}

/// Makes one that no other request has: no machine and no worker draws what another one has drawn.
pub fn make(id: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<[u8; DRAWN + COUNTED]> = RefCell::new(first());
    }
    LAST.with_borrow_mut(|last| {
        for digit in last[DRAWN..].iter_mut().rev() {
            *digit = match *digit {
                b'9' => b'a',
                b'f' => {
                    *digit = b'0';
                    continue;
                }
                other => other + 1,
            };
            break;
        }
        id.clear();
        id.extend_from_slice(last);
    });
}

fn first() -> [u8; DRAWN + COUNTED] {
    // The keys of hashes are drawn from the machine's random numbers.
    let drawn = RandomState::new().build_hasher().finish();
    let mut digits = [b'0'; DRAWN + COUNTED];
    digits[..DRAWN].copy_from_slice(format!("{drawn:016x}").as_bytes());
    digits
}

/// Whether a client's text may go into logs, commands and other programs as it is.
fn is_id(text: &[u8]) -> bool {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:/+=@".contains(b);
    (1..=LENGTH_MOST).contains(&text.len()) && text.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of a request with these fields, what the backend sees, and whether a client's was none.
    fn settled(ids: RequestIds, fields: &[(&str, &str)]) -> (String, Vec<String>, bool) {
        let mut exchange = Exchange::default();
        fields.iter().for_each(|(name, value)| exchange.request_mut().headers.add(name, value));
        let replaced = settle(&mut exchange, ids);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let seen = exchange.request().headers.values(NAME).map(text).collect();
        (text(&exchange.id), seen, replaced)
    }

    #[test]
    fn a_good_one_is_taken_and_any_other_is_replaced() {
        let long = "a".repeat(LENGTH_MOST);
        for good in ["a", "7f3c2d1e-8a5b-4c9d", "Root=1-67891233-abc", "a.b_c~d:e/f+g=@", &long] {
            let (id, seen, replaced) = settled(RequestIds::Accept, &[("x-request-id", good)]);
            assert_eq!((id.as_str(), seen, replaced), (good, vec![good.to_owned()], false));
            let (id, seen, replaced) = settled(RequestIds::Generate, &[("x-request-id", good)]);
            assert!(id != good && seen == [id] && !replaced, "{good}");
            let (id, seen, replaced) = settled(RequestIds::Off, &[("x-request-id", good)]);
            assert_eq!((id.as_str(), seen, replaced), ("", vec![good.to_owned()], false));
        }
        let longer = "a".repeat(LENGTH_MOST + 1);
        for bad in ["", "a b", "a,b", "<script>", "é", "a\"b", "a;b", "$(x)", &longer] {
            let (id, seen, replaced) = settled(RequestIds::Accept, &[("X-Request-Id", bad)]);
            assert!(id != bad && is_id(id.as_bytes()) && seen == [id] && replaced, "{bad}");
        }
        let (id, seen, replaced) = settled(RequestIds::Accept, &[("X-Request-Id", "a"), ("X-Request-ID", "b")]);
        assert!(!["a", "b"].contains(&&*id) && seen == [id] && replaced);
    }

    #[test]
    fn those_that_are_made_are_all_different() {
        let made = || {
            let mut id = Vec::new();
            make(&mut id);
            id
        };
        let mut all: Vec<Vec<u8>> = (0..5_000).map(|_| made()).collect();
        for _ in 0..3 {
            all.extend(std::thread::spawn(move || (0..20).map(|_| made()).collect::<Vec<_>>()).join().unwrap());
        }
        assert!(all.iter().all(|id| id.len() == DRAWN + COUNTED && is_id(id)));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn an_answer_has_one_and_it_is_the_request_s() {
        let mut response = Response::with_status(200);
        tell(b"", &mut response);
        assert!(!response.headers.contains(NAME));
        response.headers.add(NAME, "of the backend");
        response.headers.add(NAME, "of a cache");
        tell(b"mine", &mut response);
        assert_eq!(response.headers.values(NAME).collect::<Vec<_>>(), [b"mine"]);
    }
}
