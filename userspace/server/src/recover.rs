//! `weir recover`: a cluster that lost its majority goes on as a cluster of this machine.

use crate::options::Options;
use control_api::MemberRole;
use control_raft::{Config, Issued};
use std::process::ExitCode;

/// Says what came of it, and what to do next; 1 when it is refused.
pub fn run(options: &Options, although_others_run: bool) -> ExitCode {
    let config = Config {
        cluster_name: options.cluster_name.clone(),
        role: if options.secondary { MemberRole::Secondary } else { MemberRole::Primary },
        initial_cluster: options.initial_cluster.clone(),
        primary_peer_urls: options.primary_peer_urls.clone(),
        tls: options.peer_tls.clone().or_else(|| Issued::tls_in(&options.data_dir)),
        secret: options.cluster_secret.clone(),
        insecure_peers: options.insecure_peers,
        ..Config::single(&options.name, &options.data_dir)
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::fail(&format!("recover: no threads: {error}"), 1),
    };
    let recovered = match runtime.block_on(control_raft::recover(&config, although_others_run)) {
        Ok(recovered) => recovered,
        Err(error) => return crate::fail(&format!("recover: {error}"), 1),
    };
    println!(
        "{name} is a cluster of one now: version {}, {} objects, all that this member had. Its id is {}; the lost cluster's was {}.\n\
         What was in the data directory before is kept as {}.\n\
         Start weir here as before. Of {}, none may come back with its old data: one that does is told so and takes part in nothing. \
         Give each an empty --data-dir and start it with --state-flag existing, or take it out with weirctl member remove.",
        recovered.version,
        recovered.objects,
        recovered.cluster_id,
        recovered.before,
        recovered.kept.display(),
        recovered.lost.join(", "),
        name = options.name,
    );
    ExitCode::SUCCESS
}
