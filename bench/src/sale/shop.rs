//! The shop: so many threads, a queue without an end, and a stock that is looked at before it is written. The longer the queue, the
//! longer each request takes, as with threads that fight for a lock; and between looking and writing others sell the same piece.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How large it is.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where it listens
    #[arg(long)]
    pub listen: String,
    /// Requests it works on at a time
    #[arg(long, default_value_t = 3)]
    pub threads: u64,
    /// Time for one of them when it is not overdriven
    #[arg(long, default_value_t = 50)]
    pub service_ms: u64,
    /// Pieces it has
    #[arg(long)]
    pub stock: i64,
}

struct Shop {
    threads: Semaphore,
    options: Options,
    inside: AtomicU64,
    served: AtomicU64,
    left: AtomicI64,
    sold: AtomicU64,
    /// Numbers of a waiting room that have bought: each buys one piece, however often it asks.
    numbers: Mutex<HashSet<String>>,
}

/// Serves for ever.
pub async fn run(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind(&options.listen).await?;
    println!("ready");
    let shop = Arc::new(Shop {
        threads: Semaphore::new(options.threads as usize),
        inside: AtomicU64::new(0),
        served: AtomicU64::new(0),
        left: AtomicI64::new(options.stock),
        sold: AtomicU64::new(0),
        numbers: Mutex::default(),
        options,
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shop = shop.clone();
                tokio::spawn(async move { shop.converse(stream).await });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Shop {
    async fn converse(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut input = Vec::new();
        loop {
            while let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&input[..end]).into_owned();
                input.drain(..end + 4);
                let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
                let fields = head.lines().filter_map(|line| line.split_once(": "));
                let mut number = fields
                    .filter(|(name, _)| name.eq_ignore_ascii_case("x-waiting-room-number"))
                    .map(|(_, value)| value);
                let answer = self.answer(&path, number.next_back()).await;
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                return;
            }
        }
    }

    async fn answer(&self, path: &str, number: Option<&str>) -> String {
        if path == "/figures" {
            let [inside, served, sold] =
                [&self.inside, &self.served, &self.sold].map(|count| count.load(Ordering::Relaxed));
            let body = format!("{{\"inside\": {inside}, \"served\": {served}, \"sold\": {sold}}}");
            // In a field, too: whoever asks reads no bodies.
            return format!(
                "HTTP/1.1 200 OK\r\nX-Figures: {inside} {served} {sold}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
        let waiting = self.inside.fetch_add(1, Ordering::Relaxed) / self.options.threads.max(1);
        let thread = self.threads.acquire().await;
        // Twice as long with ten requests for each thread, and at most eight times as long.
        let longer = (10 + waiting.saturating_sub(1)).min(80);
        let left = self.left.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_micros(self.options.service_ms * 100 * longer)).await;
        let (status, fields) = match path {
            "/buy" if number.is_some_and(|number| self.has_bought(number)) => ("200 OK", DONE),
            "/buy" if left > 0 => {
                if let Some(number) = number {
                    self.numbers.lock().unwrap_or_else(PoisonError::into_inner).insert(number.to_owned());
                }
                self.left.store(left - 1, Ordering::Relaxed);
                self.sold.fetch_add(1, Ordering::Relaxed);
                ("200 OK", DONE)
            }
            "/buy" => ("409 Conflict", ""),
            _ => ("200 OK", ""),
        };
        drop(thread);
        self.inside.fetch_sub(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 2\r\n\r\nok")
    }

    fn has_bought(&self, number: &str) -> bool {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).contains(number)
    }
}

/// Frees the buyer's place in a waiting room.
const DONE: &str = "X-Waiting-Room: done\r\n";
