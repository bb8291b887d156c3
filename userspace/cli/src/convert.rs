//! `convert`: documents out of another program's configuration.

use std::path::Path;

use control_convert::{Converted, Disk, haproxy, nginx, to_yaml};

use crate::arguments::{ConvertFrom, Format, Output};
use crate::output::print;

pub fn convert(from: &ConvertFrom, output: &Output) -> Result<(), String> {
    let (arguments, default, work): (_, _, fn(&Path, &str, &dyn control_convert::Files) -> _) = match from {
        ConvertFrom::Nginx(arguments) => (arguments, "nginx", nginx::convert),
        ConvertFrom::Haproxy(arguments) => (arguments, "haproxy", haproxy::convert),
    };
    let prefix = arguments.resource_prefix.as_deref().unwrap_or(default);
    let converted: Result<Converted, control_convert::Unreadable> = work(&arguments.file, prefix, &Disk);
    let Converted { documents, report } = converted.map_err(|wrong| wrong.to_string())?;
    let written = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|e| format!("{}: cannot be written: {e}", path.display()))
    };
    match output {
        Output::File(file) => {
            written(file, &to_yaml(&documents))?;
            eprintln!("{} documents are in {}", documents.len(), file.display());
        }
        Output::Format(Format::Json) => {
            print(&serde_json::to_string_pretty(&documents).map_err(|e| format!("documents cannot be printed: {e}"))?);
        }
        Output::Format(_) => print(to_yaml(&documents).trim_end()),
    }
    match &arguments.report {
        Some(file) => written(file, &format!("{report}\n"))?,
        None => eprintln!("{report}"),
    }
    Ok(())
}
