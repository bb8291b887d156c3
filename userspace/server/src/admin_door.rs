//! Where the admin API is reached: opened, tried again while its port is taken, and handed over.

use crate::options::Options;
use base_runtime::net::inherited;
use control_admin::{Admin, Door, Switch};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// Between two tries to open the admin API.
const AGAIN: Duration = Duration::from_millis(500);

/// See the module doc.
pub struct AdminDoor {
    options: Arc<Options>,
    switch: Switch,
    /// The runtime that answers.
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Admin>,
    /// What it listens on, or is to listen on.
    listeners: Vec<TcpListener>,
}

impl AdminDoor {
    /// `listeners` are those of the process before, if there are any.
    pub fn new(options: Arc<Options>, switch: Switch, runtime: Handle, listeners: Vec<TcpListener>) -> Arc<AdminDoor> {
        let state = Mutex::new(State { open: None, listeners });
        Arc::new(AdminDoor { options, switch, runtime, state })
    }

    /// Opens it. While its port is taken a machine that `serves` goes on doing so, and tries again.
    pub fn open(self: &Arc<Self>, serves: bool) -> Result<(), String> {
        match self.try_open() {
            Err(error) if serves => {
                tracing::error!(
                    "{error}; traffic is served from the last good state, and the admin API follows when it can"
                );
                let door = self.clone();
                self.runtime.spawn(async move {
                    while door.try_open().is_err() {
                        tokio::time::sleep(AGAIN).await;
                    }
                });
                Ok(())
            }
            done => done,
        }
    }

    /// What answers, once it is open.
    pub fn admin(&self) -> Option<Admin> {
        self.lock().open.clone()
    }

    /// Further descriptors of what it listens on.
    pub fn descriptors(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.lock().listeners.iter().map(|listener| inherited::duplicate(listener.as_raw_fd())).collect()
    }

    /// Answers what has been asked; whoever asks from now on waits for whoever opens it next, here or in another process.
    pub async fn rest(&self, patience: Duration) {
        let open = self.lock().open.take();
        if let Some(admin) = open {
            admin.finish(patience).await;
        }
    }

    /// Closes it.
    pub fn close(&self) {
        let mut state = self.lock();
        state.listeners.clear();
        if let Some(admin) = state.open.take() {
            admin.shutdown();
        }
    }

    fn try_open(&self) -> Result<(), String> {
        let mut state = self.lock();
        if state.open.is_some() {
            return Ok(());
        }
        let options = &self.options;
        if state.listeners.is_empty() {
            state.listeners = control_admin::bind(&options.api_addr)?;
        }
        let door = Door {
            tls: options.admin_tls.clone(),
            client_certificates: options.admin_client_certificates,
            logins: options.logins.clone(),
            insecure: options.insecure_api,
            names: self.names(),
        };
        let _on = self.runtime.enter();
        let listeners = state.listeners.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>();
        let opened = listeners.and_then(|listeners| Admin::serve(listeners, self.switch.router(), door));
        state.open = Some(opened.map_err(|e| format!("--api-addr: {e}"))?);
        Ok(())
    }

    /// Names that somebody wrote down for it.
    fn names(&self) -> Vec<String> {
        let hosts = self.options.api_addr.split(',').filter_map(|address| address.trim().rsplit_once(':'));
        hosts.map(|(host, _)| host.to_owned()).chain(self.options.api_names.iter().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
