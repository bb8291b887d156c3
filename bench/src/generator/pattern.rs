//! What is asked for and answered: windows of one text without a short period, each window another start.

pub struct Pattern {
    path: String,
    text: Vec<u8>,
    answers: Vec<Vec<u8>>,
    response: usize,
    request: usize,
}

impl Pattern {
    /// Bodies of `response` bytes in answers, which caches may keep where `cached` says so, and of `request` bytes in requests, whose
    /// targets begin with `path`.
    pub fn new(path: &str, response: usize, request: usize, cached: bool) -> Self {
        let length = response.max(request) + WINDOWS * STRIDE;
        let text: Vec<u8> = (0..length).map(|at| b'!' + ((at * at / 7 + at) % 90) as u8).collect();
        let kept = if cached { "Cache-Control: public, max-age=3600\r\n" } else { "" };
        let answer = |window: usize| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: lg\r\n{kept}Content-Length: {response}\r\n\r\n"
            );
            [head.as_bytes(), &text[window * STRIDE..][..response]].concat()
        };
        let answers = (0..WINDOWS).map(answer).collect();
        Self { path: path.to_owned(), text, answers, response, request }
    }

    pub fn response_body(&self, window: usize) -> &[u8] {
        &self.text[window * STRIDE..][..self.response]
    }

    pub fn request_body(&self, window: usize) -> &[u8] {
        &self.text[window * STRIDE..][..self.request]
    }

    /// The upstream's whole answer.
    pub fn answer(&self, window: usize) -> &[u8] {
        &self.answers[window]
    }

    /// The client's whole request. With `close` the connection is to end with the answer.
    pub fn request(&self, window: usize, close: bool) -> Vec<u8> {
        let common = "HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: lg\r\nAccept: */*\r\n";
        let close = if close { "Connection: close\r\n" } else { "" };
        if self.request == 0 {
            return format!("GET {}{window} {common}{close}\r\n", self.path).into_bytes();
        }
        let head = format!(
            "POST {}{window} {common}{close}Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            self.path, self.request
        );
        [head.as_bytes(), self.request_body(window)].concat()
    }
}

/// `GET /7 HTTP/1.1` → 7, also when the gateway made the target absolute or added a query.
pub fn window(head: &[u8]) -> Option<usize> {
    let target = head.split(|&byte| byte == b' ').nth(1)?;
    let number = target.rsplit(|&byte| byte == b'/').next()?;
    std::str::from_utf8(number).ok()?.parse().ok().filter(|window| *window < WINDOWS)
}

/// The value of Content-Length in a head of lines that each end in CRLF.
pub fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            return std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok();
        }
        rest = &rest[end + 1..];
    }
    None
}

/// Different bodies in flight; more of them would push the pattern out of the cache with 16-KiB bodies.
pub const WINDOWS: usize = 16;
const STRIDE: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_window_and_its_length() {
        let pattern = Pattern::new("/", 10, 4096, false);
        let request = pattern.request(7, true);
        let end = memchr::memmem::find(&request, b"\r\n\r\n").expect("a head");
        assert_eq!((window(&request), content_length(&request[..end + 2])), (Some(7), Some(4096)));
        assert_eq!(&request[end + 4..], pattern.request_body(7));
        assert_eq!(window(b"GET http://bench.example/3 HTTP/1.1\r\n"), Some(3));
        assert_eq!(window(b"GET /99 HTTP/1.1\r\n"), None);
    }
}
