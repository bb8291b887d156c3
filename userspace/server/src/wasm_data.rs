//! Where programs of WasmHosts and the cluster meet: what they share goes to the control half and comes back, and the word to read
//! programs again is passed on.
//!
//! What the programs of one filter change on this machine goes in batches, one on its way at a time: a counter that a thousand requests
//! add to costs an agreement per batch. Where something is added, the batch was made from what is there, and is made again if another
//! machine was first.

use crate::health::Health;
use control_api::client::Client;
use control_api::tls::ClientTrust;
use control_api::{
    CustomKind, CustomPlace, Document, RefusalKind, Snapshot, Update, WASM_CODE, WASM_ID, WASM_ITEMS_MAX, WASM_KINDS,
    wasm_data, wasm_place,
};
use control_raft::{Control, Follower};
use control_state::{Action, CustomMode, PutMode};
use edge_wasm::shared::{self, Change, Items, Place, Write, Writer};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Changes of one filter that wait for their turn.
const QUEUE: usize = 4096;

/// Changes that go together.
const BATCH: usize = 256;

/// How often a batch is made again because another machine was first.
const TRIES: u32 = 100;

/// Longest that a program's URL is waited for.
const FETCH: Duration = Duration::from_secs(15);

/// Gives the programs of this process a cluster, and a way to what they are read from.
pub fn install(tokio: &Handle, health: &Arc<Health>) {
    edge_wasm::install();
    shared::write_with(Arc::new(Queues { tokio: tokio.clone(), health: health.clone(), places: Mutex::default() }));
    let tokio = tokio.clone();
    edge_wasm::fetch_with(Box::new(move |url, most| {
        let client = Client::trusting(FETCH, &ClientTrust::default()).map_err(|why| why.to_string())?;
        tokio.block_on(client.fetch(url, most, FETCH)).map_err(|why| why.reason)
    }));
}

/// A queue for each filter whose programs have ever changed anything.
struct Queues {
    tokio: Handle,
    health: Arc<Health>,
    places: Mutex<HashMap<Place, mpsc::Sender<Write>>>,
}

impl Writer for Queues {
    fn write(&self, write: Write) -> Result<(), Write> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = places.entry(write.place.clone()).or_insert_with(|| {
            let (sender, queue) = mpsc::channel(QUEUE);
            self.tokio.spawn(carry(self.health.clone(), write.place.clone(), queue));
            sender
        });
        queue.try_send(write).map_err(|back| back.into_inner())
    }
}

async fn carry(health: Arc<Health>, place: Place, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let decided = match health.control() {
            Some(control) => decide(&control, &place, &batch).await,
            None => Err("the control half does not run".to_owned()),
        };
        let mut values = decided.as_ref().ok().into_iter().flatten();
        for write in batch.drain(..) {
            let answer = match (&decided, values.next()) {
                (Ok(_), Some(value)) => Ok(value.clone()),
                (Ok(_), None) => Err("nothing was decided".to_owned()),
                (Err(why), _) => Err(why.clone()),
            };
            // A program that was ended meanwhile asks no more.
            let _ = write.answer.try_send(answer);
        }
    }
}

/// Carries a batch out; the values that are there after each change.
async fn decide(control: &Control, place: &Place, batch: &[Write]) -> Result<Vec<Vec<u8>>, String> {
    let kind = wasm_data(&place.pipeline, &place.filter);
    for _ in 0..TRIES {
        let state = control.state();
        if !state.view.custom_kinds.contains_key(&kind) {
            let kind = CustomKind { name: kind.clone(), id_field: WASM_ID.to_owned(), json_schema: None };
            let made = control.propose(Action::PutCustomKind { mode: PutMode::Upsert, kind, since: None }).await;
            made.map_err(|refusal| refusal.message)?;
            continue;
        }
        let (values, put) = after(&state.view, &kind, batch)?;
        let adds = batch.iter().any(|write| !matches!(write.change, Change::Put(_)));
        let since = adds.then(|| state.view.custom_changed(CustomPlace::Data(&kind)));
        let (mode, delete) = (CustomMode::Keep, Vec::new());
        let action = Action::BatchCustomData { kind: kind.clone(), mode, delete, put, since };
        match control.propose(action).await {
            Ok(_) => {
                let state = control.state();
                let view = &state.view;
                shared::publish(place, view.version, view.custom_data.get(&kind).cloned().unwrap_or_default());
                return Ok(values);
            }
            Err(refusal) if refusal.kind == RefusalKind::Stale => {
                control.catch_up().await;
            }
            Err(refusal) => return Err(refusal.message),
        }
    }
    Err(format!("other machines changed it each of {TRIES} times"))
}

/// The value after each change of a batch, and what has to be put for that.
fn after(view: &Snapshot, kind: &str, batch: &[Write]) -> Result<(Vec<Vec<u8>>, Vec<Document>), String> {
    let there = view.custom_data.get(kind);
    let mut now: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut values = Vec::with_capacity(batch.len());
    let (mut count, most) = (there.map_or(0, |items| items.len()), WASM_ITEMS_MAX);
    for write in batch {
        let before = there.and_then(|items| items.get(&write.key));
        if before.is_none() && !now.contains_key(write.key.as_str()) {
            count += 1;
        }
        let known = now.get(write.key.as_str()).cloned().or_else(|| before.and_then(|item| shared::bytes_of(item)));
        let value = shared::changed(known.as_deref(), &write.change);
        now.insert(&write.key, value.clone());
        values.push(value);
    }
    if count > most {
        return Err(format!(
            "{count} keys would be there; accepted are {most} (weirctl wasm delete-data forgets them)"
        ));
    }
    let put = now.iter().map(|(key, value)| Document::new(shared::item(key, value))).collect();
    Ok((values, put))
}

/// Tells the programs what the cluster shares, for as long as `control` is there.
pub async fn follow(control: Control, mut updates: Follower) {
    let mut reload = None;
    while let Some(update) = updates.next().await {
        let (touched, anew) = match &update {
            Update::Ping(_) => (false, false),
            Update::Snapshot(_) => (true, true),
            Update::Delta(delta) => (delta.custom.iter().any(|change| change.kind().starts_with(WASM_KINDS)), false),
        };
        if !touched {
            continue;
        }
        let state = control.state();
        shared::publish_all(&all(&state.view), state.view.version, anew);
        let asked = state.view.custom_data.get(WASM_CODE).and_then(|items| items.get("reload")).cloned();
        // What was asked for before this process began is done.
        if reload.as_ref().is_some_and(|before| *before != asked) {
            edge_wasm::reload();
        }
        reload = Some(asked);
    }
}

fn all(view: &Snapshot) -> HashMap<Place, Arc<Items>> {
    let of = |(kind, items): (&String, &Arc<Items>)| {
        let (pipeline, filter) = wasm_place(kind)?;
        Some((Place { pipeline: pipeline.into(), filter: filter.into() }, items.clone()))
    };
    view.custom_data.iter().filter_map(of).collect()
}
