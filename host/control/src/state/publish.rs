//! One generation from everything that can be used, and its way to kernel and proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tidegate_contract::Snapshot;
use tidegate_observe::directory::Directory;
use tidegate_policy::{
    Document, Input, Mode, Origin, Problem, Severity,
    compiled::{Compiled, CompiledEndpoint, EndpointId, Generation, Location},
    shared::changes,
};
use tidegate_sources::folder::folder_of;

use super::{Control, OnItsWay, PluginSet, Published, seconds_now};
use crate::{
    documents::Documents,
    misplaced::{misplaced, outside},
    publication::{ForProxy, Publication},
    sinks::Kernel,
};

impl<K: Kernel> Control<K> {
    /// The next generation, if there is something new that can be published.
    pub(super) fn next_generation(&mut self) -> anyhow::Result<Option<Publication>> {
        let compiled = self.compile();
        if let Some(why) = self.unnumbered.take() {
            return Err(why.context("get numbers for new label sets"));
        }
        let Some(compiled) = compiled else {
            return Ok(None);
        };
        let (plugins, mut artifacts) = self.plugin_set();
        let now = Duration::from_secs(seconds_now());
        let contexts = self.secrets.contexts(&compiled.l7, now);
        self.problems.secrets(&self.secrets.troubles, seconds_now());
        let unchanged = self.published.as_ref().is_some_and(|published| {
            let snapshot = &published.for_proxy.snapshot;
            *published.compiled == compiled
                && published.other_sources == self.documents.has_other_sources()
                && snapshot.plugins == plugins
                && snapshot.contexts == contexts
        });
        if unchanged {
            self.problems.generation(None, seconds_now());
            return Ok(None);
        }
        let doubtful = self.documents.doubtful();
        if self.kept.doubtful.as_ref() != Some(&doubtful) {
            self.store.save_doubtful(&doubtful)?;
            self.kept.doubtful = Some(doubtful);
        }
        // Before anything that uses the numbers is published.
        self.store.save_ids(&mut self.ids)?;

        let before = self.published.as_ref();
        let last = before.map(|published| published.generation);
        let last = self.kernel.generation().max(last.unwrap_or_default());
        let generation = last.next();
        let mut snapshot = Snapshot {
            generation,
            l7: compiled.l7.clone(),
            identities: compiled.identities.clone(),
            fqdn: compiled.fqdn.clone(),
            fqdn_in_shadow: compiled.fqdn_in_shadow.clone(),
            plugins,
            fqdn_min_ttl: self.settings.fqdn_min_ttl,
            reject: self.settings.reject,
            audit: self.settings.audit,
            outward: compiled.outward.clone(),
            contexts,
            ..Snapshot::default()
        };
        // Until the kernel flips, flows still carry rule sets of the generation before;
        // ids are content-addressed, so both can be known at once.
        if let Some(before) = before {
            let gone = changes(&before.compiled.l7, &compiled.l7);
            for change in gone.filter(|change| change.now.is_none()) {
                let set = change.before.cloned();
                snapshot.l7.extend(set.map(|set| (*change.key, set)));
            }
        }
        snapshot.remembered =
            self.bindings
                .remembered(&snapshot.l7, &snapshot.plugins, &mut artifacts);
        let publication = Publication {
            generation,
            compiled: Arc::new(compiled),
            other_sources: self.documents.has_other_sources(),
            next: Arc::new(ForProxy {
                snapshot,
                artifacts,
            }),
            before: before.map(|published| published.for_proxy.clone()),
        };
        Ok(Some(publication))
    }

    /// One generation from everything that can be used; `None`, with the problems
    /// noted, if the result must not be published.
    fn compile(&mut self) -> Option<Compiled> {
        let now = seconds_now();
        let enforced = self.kernel.generation();
        // What the kernel has was made by a run of which nothing is known.
        let of_others = self.published.is_none() && enforced.is_some();
        let unknown = self.documents.unknown(true);
        if of_others && !unknown.is_empty() {
            let unknown = joined(unknown);
            return self.as_it_is(&format!("{unknown}: {NOTHING_USABLE}"), enforced);
        }
        if of_others
            && self.documents.past_is_lost()
            && self.kernel.has_other_sources()
            && let Some(why) = self.unnamed.values().next()
        {
            let why = why.clone();
            return self.as_it_is(&why, enforced);
        }
        let mut closed = self.documents.unknown(false).into_iter().any(is_policy);
        let mut settled = self.settle_documents(closed);
        if self.unnumbered.is_some() {
            // What stepped back did so for want of numbers: that says nothing of documents.
            return None;
        }
        let contested = self.documents.contested(true);
        if of_others && settled.is_ok() && !contested.is_empty() {
            let contested = joined(contested);
            return self.as_it_is(&format!("{contested}: {CONTESTED}"), enforced);
        }
        // Rules that were in force and fit no more must not leave open what they closed.
        let left_out = |documents: &Documents| {
            let mut contested = documents.contested(false).into_iter();
            documents.left_out().any(is_policy) || contested.any(may_close)
        };
        if settled.is_ok() && !closed && left_out(&self.documents) {
            closed = true;
            settled = self.settle_documents(closed);
        }
        let message = closed.then(|| self.why_closed());
        self.problems.unknown(message, now);
        match settled {
            Ok(compiled) => {
                self.is_looked_through = false;
                Some(compiled)
            }
            Err(mut problems) => {
                self.is_looked_through = true;
                problems.extend(self.warnings());
                self.problems.documents(&self.documents, &problems, now);
                let origins: BTreeSet<&Origin> =
                    problems.iter().filter_map(|p| p.origin.as_ref()).collect();
                let message = format!(
                    "files in force do not fit together any more ({}); the generation before stays in force",
                    joined(origins)
                );
                self.problems.generation(Some(message), now);
                None
            }
        }
    }

    /// Nothing is published: the kernel keeps what it has.
    fn as_it_is(&mut self, why: &str, enforced: Generation) -> Option<Compiled> {
        let now = seconds_now();
        let message = format!(
            "{why}, so the kernel keeps generation {enforced} as it is, and no change takes \
             effect; mend these or bring their files back, delete files to remove what they said, \
             or begin anew after `tidegate cleanup`"
        );
        self.is_looked_through = true;
        let warnings = self.warnings();
        self.problems.documents(&self.documents, &warnings, now);
        self.problems.unknown(Some(message), now);
        None
    }

    /// Looks at what was compiled for what its authors may not have meant. Nobody waits for
    /// that: it is done when what was compiled is on its way, or need not go.
    pub(super) fn look_for_mistakes(&mut self) {
        if !std::mem::replace(&mut self.is_looked_through, true) {
            let warnings = self.warnings();
            self.problems
                .documents(&self.documents, &warnings, seconds_now());
        }
    }

    /// What is valid and probably not meant: in what is in use, and in what is on disk and would
    /// be, were it not for a mistake somewhere. One hides nothing of the others.
    fn warnings(&mut self) -> Vec<Problem> {
        let base = self.base(false);
        let input = base.clone().of(self.documents.together());
        let mut warnings = self.linter.lint(&input);
        let in_use = self.documents.in_use();
        let devices = &self.node_devices;
        warnings.extend(in_use.flat_map(|document| outside(document, devices)));

        let aside: BTreeMap<_, &Document> = self
            .documents
            .set_aside()
            .map(|document| (document.meta().key(), document))
            .collect();
        if aside.is_empty() {
            return warnings;
        }
        let mut wanted = base;
        let others = self.documents.in_use();
        let others = others.filter(|document| !aside.contains_key(&document.meta().key()));
        let documents = others.chain(aside.values().copied());
        documents.for_each(|document| wanted.add(document.clone()));
        let mut found = self.set_aside.lint(&wanted);
        found.extend(
            aside
                .values()
                .flat_map(|document| outside(document, devices)),
        );
        found.retain(|problem| {
            let document = problem.document.as_ref();
            document.is_some_and(|document| aside.contains_key(document))
        });
        // Of the last good version it says where that has it, which is on disk no more.
        let same =
            |a: &Problem, b: &Problem| (&a.document, &a.message) == (&b.document, &b.message);
        warnings.retain(|warning| !found.iter().any(|found| same(warning, found)));
        warnings.extend(found);
        warnings
    }

    /// What everything is compiled on top of. `closed`: every endpoint is in default deny.
    fn base(&self, closed: bool) -> Input {
        Input {
            node_addresses: self.node_addresses.clone(),
            plugins: self.plugins.known(),
            mode: match self.settings.mode {
                Mode::Default if closed => Mode::Always,
                mode => mode,
            },
            ..Input::default()
        }
    }

    /// Why every endpoint is in default deny, though nobody has said so.
    fn why_closed(&self) -> String {
        let unusable = self.documents.unknown(false).into_iter();
        let unusable: BTreeSet<&Origin> = unusable.chain(self.documents.left_out()).collect();
        let contested = self.documents.contested(false);
        let reasons = [(unusable, NOTHING_USABLE), (contested, CONTESTED)];
        let reasons = reasons
            .into_iter()
            .filter(|(origins, _)| !origins.is_empty());
        let reasons = reasons.map(|(origins, why)| format!("{}: {why}", joined(origins)));
        format!(
            "{}, so every endpoint is in default deny both ways; mend these, or delete them to \
             remove what they said",
            reasons.collect::<Vec<_>>().join("; ")
        )
    }

    /// Lets files step back until the rest compiles and fits. `closed`: every endpoint is
    /// in default deny.
    fn settle_documents(&mut self, closed: bool) -> Result<Compiled, Vec<Problem>> {
        let base = self.base(closed);
        let (compiler, ids) = (&mut self.compiler, &mut self.ids);
        let (identities, unnumbered) = (&mut self.identities, &mut self.unnumbered);
        let kernel = &self.kernel;
        let devices = &self.node_devices;
        // What runs in the kernel is not taken away for lack of understanding.
        let may_drop = self.published.is_none() && kernel.generation().is_none();
        self.documents.settle(
            may_drop,
            |document| misplaced(document, devices, &base.node_addresses),
            |documents| {
                let input = base.clone().of(documents);
                let sets = compiler.unnumbered(&input, ids);
                if !sets.is_empty()
                    && let Err(why) = identities.number(&sets, ids)
                {
                    let problem = of_no_file(format!("{why:#}"));
                    *unnumbered = Some(why);
                    return Err(vec![problem]);
                }
                // Numbers that a failed attempt was given are kept for whom they were given
                // to, like those of documents that are gone.
                let compiled = compiler.compile(&input, ids)?;
                if let Some(why) = kernel.too_much(&compiled) {
                    return Err(vec![of_no_file(why)]);
                }
                Ok(compiled)
            },
        )
    }

    fn plugin_set(&self) -> (PluginSet, BTreeMap<String, std::path::PathBuf>) {
        let candidates = || self.plugins.candidates();
        (
            candidates()
                .map(|c| (c.name.clone(), c.info.clone()))
                .collect(),
            candidates()
                .map(|c| (c.info.artifact.clone(), c.artifact.clone()))
                .collect(),
        )
    }

    fn keep_homes(&self, compiled: &Compiled) {
        let is_as_before = |before: &Published| {
            let mut changed = changes(&before.compiled.endpoints, &compiled.endpoints);
            changed.all(|change| {
                let home = |endpoint: &Arc<CompiledEndpoint>| {
                    (endpoint.name.clone(), endpoint.location.clone())
                };
                change.before.map(home) == change.now.map(home)
            })
        };
        if self.published.as_ref().is_some_and(is_as_before) {
            return;
        }
        let homes = homes(compiled);
        let homes = homes.map(|(id, name, place)| (id, (name.to_owned(), place.clone())));
        if let Err(error) = self.store.save_homes(&homes.collect()) {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep where endpoints live"
            );
        }
    }

    fn keep_plugins(&mut self) {
        let published = self.plugins.published();
        if self.kept.plugins.as_ref() == Some(&published) {
            return;
        }
        match self.store.save_plugins(&published) {
            Ok(()) => self.kept.plugins = Some(published),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "cannot keep the plugin list for the next start"
            ),
        }
    }

    /// A generation is in force: it becomes what the next one is compared with.
    pub(super) fn commit(&mut self, published: OnItsWay, refused: &[(String, String)]) {
        let OnItsWay {
            generation,
            compiled,
            mut for_proxy,
            other_sources,
        } = published;
        for (name, reason) in refused {
            tracing::warn!(
                plugin = name,
                reason,
                "the proxy refused the plugin; the version before stays in use"
            );
            self.plugins.refused(name, reason);
        }
        Arc::make_mut(&mut for_proxy).snapshot.plugins = self.plugin_set().0;
        self.patience = Duration::ZERO;
        for keep in self.documents.commit() {
            self.keep(keep);
        }
        self.keep_homes(&compiled);
        self.plugins.commit(&compiled);
        self.bindings.commit(&compiled);
        self.keep_plugins();
        tracing::info!(
            generation = generation.get(),
            endpoints = compiled.endpoints.len(),
            rules = compiled.rules.len(),
            services = compiled.services.len(),
            plugins = for_proxy.snapshot.plugins.len(),
            "generation in force"
        );
        let before = self
            .published
            .as_ref()
            .map(|published| &*published.directory);
        let directory = Arc::new(Directory::new(&compiled, before));
        self.published = Some(Published {
            generation,
            compiled,
            for_proxy,
            other_sources,
            directory,
        });
        self.problems.generation(None, seconds_now());
    }
}

/// Where endpoints live: number, name and place.
fn homes(compiled: &Compiled) -> impl Iterator<Item = (EndpointId, &str, &Location)> {
    let endpoints = compiled.endpoints.iter();
    endpoints.map(|(id, endpoint)| (*id, &*endpoint.name, &endpoint.location))
}

/// Names for people, each once.
fn joined<'a>(origins: impl IntoIterator<Item = &'a Origin>) -> String {
    let origins: BTreeSet<&Origin> = origins.into_iter().collect();
    let names = origins.into_iter().map(Origin::to_string);
    names.collect::<Vec<_>>().join(", ")
}

/// May it have said something of policies, deny lists or bindings? Where files are, their
/// folder tells; of anything else nothing is known.
fn is_policy(origin: &Origin) -> bool {
    !["endpoints", "services"].contains(&folder_of(origin.name()))
}

/// As [`is_policy`], of what can be read: an endpoint says whom rules are about.
fn may_close(origin: &Origin) -> bool {
    folder_of(origin.name()) != "services"
}

const NOTHING_USABLE: &str = "nothing usable is left of what may have been in force";
const CONTESTED: &str = "what they say is at odds with each other or does not fit, and nothing \
                         tells which of it was in force";

fn of_no_file(message: String) -> Problem {
    Problem {
        origin: None,
        document: None,
        line: 0,
        column: 0,
        field: String::new(),
        value: None,
        message,
        hint: None,
        severity: Severity::Error,
    }
}
