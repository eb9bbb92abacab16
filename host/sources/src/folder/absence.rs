//! What it means that a file is not where it was. Only one thing removes it: that it is
//! missing from the folder it was read from, while that can be listed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_policy::Source;

use super::{FolderId, FormerFolder, Scan, TextId, folder_of, stem, watched::key};

/// The files that a scan did not find, told apart.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Removed by somebody.
    pub(super) gone: BTreeSet<String>,
    /// Files and folders that are not where they were and were not removed: why what they
    /// said stays, and the way out.
    pub(super) held: BTreeMap<String, String>,
    /// Where files come from by now: see [`super::Origins`].
    pub(super) origins: BTreeMap<String, FolderId>,
}

impl Absence {
    /// Looks at every known file. `in_force`: is something of it in force; `said`: what it
    /// was last seen to say.
    pub(super) fn of<'a>(
        known: impl Iterator<Item = &'a str> + Clone,
        in_force: impl Fn(&str) -> bool,
        said: impl Fn(&str) -> Vec<TextId>,
        (source, origins): (&Source, &BTreeMap<String, FolderId>),
        scan: &Scan,
    ) -> Self {
        let mut absence = Self {
            held: vanished(known.clone(), origins, scan),
            ..Self::default()
        };
        // A folder of which nothing is known stays the one it was.
        let listed = scan.folders.iter();
        let listed = listed.filter(|(label, _)| !absence.held.contains_key(*label));
        let listed: BTreeMap<String, FolderId> = listed
            .map(|(label, id)| (label.clone(), id.clone()))
            .collect();
        let before = origins.iter().filter(|(name, _)| !name.contains('/'));
        absence.origins = before
            .map(|(name, id)| (name.clone(), id.clone()))
            .collect();
        absence.origins.extend(listed);
        for name in known.filter(|name| !scan.documents.contains_key(*name)) {
            let label = folder_of(name);
            let own = origins.get(name);
            let origin = own.or_else(|| origins.get(label));
            // Without a name it is all of them.
            if [label, ""]
                .iter()
                .any(|held| absence.held.contains_key(*held))
            {
                let own = own.map(|own| (name.to_owned(), own.clone()));
                absence.origins.extend(own);
                continue;
            }
            let why = match (origin, scan.folders.get(label)) {
                _ if !in_force(name) => None,
                (Some(origin), Some(now)) if !origin.is(now) && !origin.is_at(now) => {
                    let key = key(source, label);
                    let why = unless_removed((name, &key), &said(name), (origin, now), scan);
                    if why.is_some() {
                        absence.origins.insert(name.to_owned(), origin.clone());
                    }
                    why
                }
                _ => {
                    let by_text = || said(name).iter().find_map(|text| scan.unread.get(text));
                    let place = scan.astray.get(&stem(name)).or_else(by_text);
                    place.map(|place| {
                        format!(
                            "it is not there, but {place} is, which is not read; what it said \
                             stays in force: give it its name and place back, or delete {place} \
                             too"
                        )
                    })
                }
            };
            match why {
                Some(why) => _ = absence.held.insert(name.to_owned(), why),
                None => _ = absence.gone.insert(name.to_owned()),
            }
        }
        absence
    }
}

/// Why a file of a folder that is not watched any more stays in force; `None` if it was
/// removed there.
fn unless_removed(
    (name, key): (&str, &str),
    said: &[TextId],
    (origin, now): (&FolderId, &FolderId),
    scan: &Scan,
) -> Option<String> {
    let file = name.split_once('/').map_or(name, |(_, file)| file);
    let (before, now) = (origin.path().display(), now.path().display());
    let stays = format!(
        "it came from {before}, and `{key}` in tidegate.yaml names {now} now; what it \
         said stays in force"
    );
    let start_anew = format!(
        "put a file with a comment in it into {before} to say that nothing else is meant to be there"
    );
    match scan.former.get(origin.path()) {
        Some(Ok(FormerFolder { files, .. })) if files.contains(file) => Some(format!(
            "{stays}: move it to {now}, or delete {before}/{file} to remove what it said"
        )),
        Some(Ok(FormerFolder { unread, .. }))
            if said.iter().any(|text| unread.contains_key(text)) =>
        {
            let renamed = said.iter().find_map(|text| unread.get(text));
            let renamed = renamed.map_or("", String::as_str);
            Some(format!(
                "{stays}: bring {before}/{renamed} to {now} under its name, or delete it to remove \
                 what it said"
            ))
        }
        // As for a watched one: the same folder without it, or one that is meant.
        Some(Ok(FormerFolder { id, files, .. })) if id.is(origin) || !files.is_empty() => None,
        Some(Ok(_)) => Some(format!(
            "{stays}, as {before} is another folder than before and has no file in it: bring it \
             to {now}, or {start_anew}"
        )),
        Some(Err(why)) => Some(format!(
            "{stays} ({before}: {why}): bring it to {now}, or make {before} and {start_anew}"
        )),
        None => Some(stays),
    }
}

/// Folders of which nothing can be said now, and why: their files stay as they are.
///
/// One that cannot be listed is such a folder, and so is one without any file in the
/// place of one that had some: what was mounted there is gone, or the folder was moved
/// away and made anew. One file in it, if only with a comment, shows that it is meant.
fn vanished<'a>(
    known: impl Iterator<Item = &'a str> + Clone,
    origins: &BTreeMap<String, FolderId>,
    scan: &Scan,
) -> BTreeMap<String, String> {
    let mut vanished = scan.unreadable.clone();
    vanished.remove("plugins");
    for (label, why) in &scan.missing {
        if known.clone().any(|name| folder_of(name) == label) {
            vanished.insert(label.clone(), why.clone());
        }
    }
    for (label, id) in &scan.folders {
        let of_folder = |name: &&str| folder_of(name) == label;
        let replaced = |known: &FolderId| !known.is(id) && known.is_at(id);
        let replaced = origins.get(label).is_some_and(replaced);
        let had_files = known.clone().any(|name| of_folder(&name));
        let has_files = scan.documents.keys().any(|name| of_folder(&&**name));
        if replaced && had_files && !has_files {
            vanished.insert(
                label.clone(),
                "the folder is another one than before and has no file in it; what it held \
                 stays in force: bring the files back (is a file system not mounted?), or put \
                 a file with a comment in it to say that nothing else is meant to be there"
                    .to_owned(),
            );
        }
    }
    vanished
}
