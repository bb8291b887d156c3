use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use control_kubernetes::{Key, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use super::*;

/// An API server that keeps what it is told, answers once it is let, and now and then has too much to do.
struct Server {
    /// By path, as it came.
    told: Mutex<BTreeMap<String, Vec<Value>>>,
    connections: AtomicUsize,
    /// Requests that came, and those of them that wait for their answer.
    came: AtomicUsize,
    underway: AtomicUsize,
    most: AtomicUsize,
    more: Notify,
    /// Answers that it may give.
    answers: Semaphore,
    /// What it says to those that come first: heads.
    refusals: Mutex<Vec<&'static str>>,
}

impl Server {
    async fn start(answers: usize, refusals: &[&'static str]) -> (Arc<Server>, Api, JoinSet<()>) {
        let server = Arc::new(Server {
            told: Mutex::default(),
            connections: AtomicUsize::new(0),
            came: AtomicUsize::new(0),
            underway: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            more: Notify::new(),
            answers: Semaphore::new(answers),
            refusals: Mutex::new(refusals.to_vec()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mut tasks, serving) = (JoinSet::new(), server.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let serving = serving.clone();
                connections.spawn(async move { drop(serving.serve(stream).await) });
            }
        });
        (server, Api::new("", &url).unwrap(), tasks)
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut first, mut length) = (String::new(), 0);
            if stream.read_line(&mut first).await? == 0 {
                return Ok(());
            }
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await?;
                let Some((name, value)) = line.trim().split_once(": ") else { break };
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let body: Value = serde_json::from_slice(&body).unwrap();
            let path = first.split(' ').nth(1).unwrap().to_owned();
            self.most.fetch_max(self.underway.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.came.fetch_add(1, Ordering::Relaxed);
            self.more.notify_one();
            self.answers.acquire().await.unwrap().forget();
            self.underway.fetch_sub(1, Ordering::Relaxed);
            let refusal = self.refusals.lock().unwrap().pop();
            let head = refusal.unwrap_or("200 x");
            if refusal.is_none() {
                self.told.lock().unwrap().entry(path).or_default().push(body);
            }
            stream.write_all(format!("HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes()).await?;
        }
    }

    /// Until so many requests have come.
    async fn has(&self, count: usize) {
        while self.came.load(Ordering::Relaxed) < count {
            self.more.notified().await;
        }
    }

    /// What it was told, as `n` of each status.
    fn numbers(&self) -> Vec<Vec<u64>> {
        let told = self.told.lock().unwrap();
        told.values().map(|all| all.iter().map(|body| body["status"]["n"].as_u64().unwrap()).collect()).collect()
    }
}

fn status(name: &str, n: u64) -> Tell {
    let key = Key::new("shop", name);
    Tell::Status { kind: Kind::Ingress, key, version: String::new(), status: control_api::Kept::of(&json!({"n": n})) }
}

/// What became of things, by word.
type Heard = mpsc::UnboundedReceiver<(&'static str, String)>;

fn lanes(api: Api, tasks: &mut JoinSet<()>) -> (Lanes, Heard) {
    let (tell, heard) = mpsc::unbounded_channel();
    let (lanes, telling) = Lanes::new(api, move |went| {
        let _ = tell.send(match went {
            Went::Told => ("told", String::new()),
            Went::PutOff(why) => ("put off", why),
            Went::Untold(_, None) => ("superseded", String::new()),
            Went::Untold(_, Some(why)) => ("failed", why.told),
        });
        async {}
    });
    tasks.spawn(telling);
    (lanes, heard)
}

/// Of a word, until so many were heard that are not put off.
async fn ended(heard: &mut Heard, count: usize) -> BTreeMap<&'static str, usize> {
    let mut words = BTreeMap::new();
    while words.iter().filter(|(word, _)| **word != "put off").map(|(_, count)| count).sum::<usize>() < count {
        let (word, _) = heard.recv().await.unwrap();
        *words.entry(word).or_insert(0) += 1;
    }
    words
}

#[tokio::test]
async fn several_are_told_at_once_and_of_one_object_one_after_the_other() {
    const MANY: usize = 100;
    let (server, api, mut tasks) = Server::start(0, &[]).await;
    let (lanes, mut heard) = lanes(api, &mut tasks);
    for object in 0..MANY {
        for n in 0..3 {
            assert!(lanes.offer(status(&format!("i{object}"), n)));
        }
    }
    // One in each lane, and no more than that, however long it takes.
    server.has(LANES).await;
    server.answers.add_permits(3 * MANY);
    assert_eq!(ended(&mut heard, 3 * MANY).await, [("told", 3 * MANY)].into());
    assert_eq!(server.numbers(), vec![vec![0, 1, 2]; MANY]);
    assert_eq!(server.most.load(Ordering::Relaxed), LANES);
    // Each connection is used again.
    let connections = server.connections.load(Ordering::Relaxed);
    assert!((1..=2 * LANES).contains(&connections), "{connections}");
}

#[tokio::test]
async fn nobody_is_asked_before_the_time_that_it_said() {
    let (server, api, mut tasks) = Server::start(usize::MAX >> 4, &["429 x\r\nRetry-After: 2"]).await;
    let (lanes, mut heard) = lanes(api, &mut tasks);
    let began = Instant::now();
    assert!(lanes.offer(status("a", 1)));
    let (word, why) = heard.recv().await.unwrap();
    assert!(word == "put off" && why.contains("Ingress shop/a could not be told how it is: "), "{word}: {why}");
    // Others wait as well.
    for n in 0..20 {
        lanes.offer(status(&format!("i{n}"), 1));
    }
    assert_eq!(ended(&mut heard, 21).await, [("told", 21)].into());
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((server.numbers().len(), server.came.load(Ordering::Relaxed)), (21, 22));
}

#[tokio::test]
async fn what_is_tried_in_vain_for_long_is_handed_back() {
    // As often as it is tried, and then a refusal that says nothing of how much there is to do.
    let refusals: Vec<&str> = ["403 x"].into_iter().chain(["503 x\r\nRetry-After: 0"; TRIES as usize]).collect();
    let (server, api, mut tasks) = Server::start(usize::MAX >> 4, &refusals).await;
    let (lanes, mut heard) = lanes(api, &mut tasks);
    for n in 1..4 {
        assert!(lanes.offer(status("a", n)));
    }
    let went = ended(&mut heard, 3).await;
    assert_eq!(went, [("failed", 2), ("put off", TRIES as usize - 1), ("told", 1)].into());
    assert_eq!(server.numbers(), [[3]]);
}

#[tokio::test]
async fn what_somebody_else_has_written_to_is_handed_back_and_what_has_gone_is_well() {
    let (server, api, mut tasks) = Server::start(usize::MAX >> 4, &["404 x", "409 x"]).await;
    let (lanes, mut heard) = lanes(api, &mut tasks);
    for n in 0..3 {
        assert!(lanes.offer(status("a", n)));
    }
    assert_eq!(ended(&mut heard, 3).await, [("superseded", 1), ("told", 2)].into());
    assert_eq!(server.numbers(), [[2]]);
}

#[test]
fn pauses_grow_where_nothing_is_said_and_those_of_requests_underway_together_are_one() {
    let start = Instant::now();
    let mut pacing = Pacing::new(start);
    let (mut now, mut pauses) = (start, Vec::new());
    for _ in 0..8 {
        let began = now;
        now += Duration::from_millis(1);
        for _ in 0..LANES {
            pacing.waits(began, now, None);
        }
        pauses.push(pacing.not_before - now);
        now = pacing.not_before;
    }
    for (pause, whole) in pauses.iter().zip([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
        assert!((whole / 2..=whole).contains(&(pause.as_millis() as u64)), "{pauses:?}");
    }
    // What is asked for is kept to, whoever hears of it, and whoever is told nothing shortens it for nobody.
    pacing.waits(start, now, Some(Duration::from_secs(60)));
    pacing.waits(now, now, None);
    assert!(pacing.not_before >= now + Duration::from_secs(60));
}
