//! Annotations of ingress-nginx, `nginx.ingress.kubernetes.io/…`.

use super::easegress::truth;
use super::options::{Options, Rewrite};
use crate::object::Ingress;
use crate::report::Report;
use base_text::quoted;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Takes what the annotations ask for into the options.
pub(crate) fn read(ingress: &Ingress, options: &mut Options, report: &mut Report) {
    for (name, value) in ingress.metadata.annotations.iter() {
        let Some(short) = name.strip_prefix(PREFIX) else { continue };
        let done = match short {
            "rewrite-target" if value.starts_with('/') => {
                options.expressions = true;
                options.rewrite = Some(Rewrite::Whole(value.clone()));
                Ok(())
            }
            "rewrite-target" => Err(format!("{} is no path; it begins with /", quoted(value))),
            "use-regex" => truth(value).map(|is| options.expressions |= is),
            _ => Err("this version of weir does not know it".to_owned()),
        };
        match done {
            Ok(()) => report.honoured(name),
            Err(why) => report.refused(name, why),
        }
    }
}
