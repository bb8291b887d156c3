//! Chunks in one piece and cut as the first byte says give the same body, end and verdict.

use proto_http::Limits;
use proto_http::h1::{BodyDecoder, BodyError, Framing};

pub fn check(bytes: &[u8]) {
    let Some((&step, input)) = bytes.split_first() else { return };
    let (whole, pieces) = (run(input, usize::MAX), run(input, step as usize % 16 + 1));
    assert_eq!(whole.error, pieces.error);
    assert!(pieces.body.starts_with(&whole.body));
    if whole.error.is_none() {
        assert_eq!((whole.body, whole.end, whole.done), (pieces.body, pieces.end, pieces.done));
    }
}

struct Run {
    body: Vec<u8>,
    end: usize,
    done: bool,
    error: Option<BodyError>,
}

fn run(input: &[u8], step: usize) -> Run {
    let mut decoder = BodyDecoder::new(Framing::Chunked, &Limits::default());
    let mut run = Run { body: Vec::new(), end: 0, done: false, error: None };
    while run.end < input.len() && !run.done {
        let piece = &input[run.end..run.end.saturating_add(step).min(input.len())];
        match decoder.decode(piece) {
            Ok(decoded) => {
                assert!(decoded.consumed > 0 && decoded.data.end <= decoded.consumed);
                run.body.extend_from_slice(&piece[decoded.data]);
                run.end += decoded.consumed;
                run.done = decoded.done;
            }
            Err(error) => {
                run.error = Some(error);
                break;
            }
        }
    }
    run
}
