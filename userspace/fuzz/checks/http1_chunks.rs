//! Chunks in one piece and cut as the first byte says give the same body, end and verdict; what is read from a client is read from a
//! backend, too.

use proto_http::h1::{BodyDecoder, Framing, FramingError};
use proto_http::{Limits, Underscores};

pub fn check(bytes: &[u8]) {
    let Some((&step, input)) = bytes.split_first() else { return };
    let limits = Limits { underscores: Underscores::Allow, ..Limits::default() };
    let request = || BodyDecoder::new(Framing::Chunked, &limits);
    let answer = || BodyDecoder::of_answer(Framing::Chunked, &limits);
    let asked = compare(input, step, &request);
    let answered = compare(input, step, &answer);
    if asked.error.is_none() {
        assert_eq!((asked.body, asked.end, asked.done), (answered.body, answered.end, answered.done));
    }
}

fn compare(input: &[u8], step: u8, decoder: &dyn Fn() -> BodyDecoder) -> Run {
    let (whole, pieces) = (run(input, usize::MAX, decoder()), run(input, step as usize % 16 + 1, decoder()));
    assert_eq!(whole.error, pieces.error);
    assert!(pieces.body.starts_with(&whole.body));
    if whole.error.is_none() {
        assert_eq!((&whole.body, whole.end, whole.done), (&pieces.body, pieces.end, pieces.done));
    }
    whole
}

struct Run {
    body: Vec<u8>,
    end: usize,
    done: bool,
    error: Option<FramingError>,
}

fn run(input: &[u8], step: usize, mut decoder: BodyDecoder) -> Run {
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
