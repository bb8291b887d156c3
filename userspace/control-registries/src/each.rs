//! A task for each service that is asked for, where a registry is asked for each.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use crate::Wanted;

/// Starts and ends tasks as services are asked for. `idle` is done now and then while there are none.
pub(crate) async fn service<T, I>(
    mut wanted: Wanted,
    start: impl Fn(String) -> T,
    idle: impl Fn() -> I,
    idle_every: Duration,
) -> Result<(), String>
where
    T: Future<Output = ()> + Send + 'static,
    I: Future<Output = Result<(), String>>,
{
    let mut watching: BTreeMap<String, AbortHandle> = BTreeMap::new();
    // Ends all of them when this is given up.
    let mut tasks = JoinSet::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        watching.retain(|name, task| {
            let stays = now.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for name in now {
            watching.entry(name.clone()).or_insert_with(|| tasks.spawn(start(name)));
        }
        if watching.is_empty() {
            idle().await?;
        }
        tokio::select! {
            changed = wanted.changed() => changed.map_err(|_| "nobody asks for services any more".to_owned())?,
            () = tokio::time::sleep(idle_every), if watching.is_empty() => {}
            // One that was ended because it is not asked for says nothing.
            Some(ended) = tasks.join_next() => match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.is_cancelled() => {}
                Err(error) => return Err(format!("the watch of a service has failed: {error}")),
            },
        }
    }
}
