//! `config`.

use cofferdam::{Coffer, Result, Setting};

use crate::{args::ConfigVerb, exit_status::ExitStatus, output};

/// Does what `config` is to do.
pub(crate) fn config(coffer: &Coffer, verb: &ConfigVerb) -> ExitStatus {
    let settings = coffer.settings();
    let result = match verb {
        ConfigVerb::Get(args) => settings.get(&args.key).map(|setting| {
            output::line(setting.value);
        }),
        ConfigVerb::Set(args) => settings.set(&args.key, &args.value),
        ConfigVerb::Unset(args) => settings.unset(&args.key),
        ConfigVerb::List(args) => list(coffer, args.json),
    };
    result.into()
}

fn list(coffer: &Coffer, json: bool) -> Result<()> {
    let settings = coffer.settings().list()?;
    if json {
        output::json(&settings);
        return Ok(());
    }
    let row = |setting: &Setting| {
        let origin = if setting.is_set { "set" } else { "default" };
        vec![
            setting.key.clone(),
            setting.value.clone(),
            origin.to_owned(),
            setting.about.clone(),
        ]
    };
    let rows: Vec<_> = settings.iter().map(row).collect();
    output::table(&["KEY", "VALUE", "FROM", "MEANING"], &rows);
    Ok(())
}
