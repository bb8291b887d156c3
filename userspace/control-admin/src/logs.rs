use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use base_text::quoted;
use control_api::Role;
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::access::caller;
use crate::alone::Here;
use crate::body::{Answer, Error, Reply, flag, text};

/// `GET /logs?tail=500&follow=true`.
pub async fn tail(State(Here(local)): State<Here>, query: Query<Vec<(String, String)>>) -> Result<Response, Error> {
    caller().needs(Role::Read, None)?;
    let count = match text(&query, "tail") {
        "" => TAIL,
        number => number
            .parse()
            .map_err(|_| Error::invalid(format!("tail = {number}: a number of lines", number = quoted(&number))))?,
    };
    // Subscribed first: a line in between comes twice rather than never.
    let more = if flag(&query, "follow") { local.follow_logs() } else { None };
    let mut lines = String::new();
    for line in local.logs(count) {
        lines.push_str(&line);
        lines.push('\n');
    }
    let kind = [("content-type", "text/plain; charset=utf-8")];
    let Some(mut more) = more else { return Ok((kind, lines).into_response()) };
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut chunk = lines;
        loop {
            if !chunk.is_empty() && sender.send(Bytes::from(std::mem::take(&mut chunk))).await.is_err() {
                return;
            }
            chunk = tokio::select! {
                line = more.recv() => match line {
                    Ok(line) => format!("{line}\n"),
                    Err(RecvError::Lagged(lost)) => format!("… {lost} lines were too fast\n"),
                    Err(RecvError::Closed) => return,
                },
                () = sender.closed() => return,
            };
        }
    });
    Ok((kind, Body::new(Chunks(receiver))).into_response())
}

pub async fn level(State(Here(local)): State<Here>) -> Reply {
    Reply::body(json!({"level": local.log_level()}))
}

pub async fn set_level(State(Here(local)): State<Here>, Path(level): Path<String>) -> Answer {
    caller().needs(Role::Admin, None)?;
    local.set_log_level(&level).map_err(Error::invalid)?;
    Ok(Reply::default())
}

/// A body that is written as it goes.
pub struct Chunks(pub mpsc::Receiver<Bytes>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

const TAIL: usize = 500;
