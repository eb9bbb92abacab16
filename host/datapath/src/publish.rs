//! Applies a compiled generation to the kernel: everything is checked first, what
//! is new is written next to what is old, one number flips, and only then does
//! what is old go.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ipnet::IpNet;
use tidegate_bpf::program::grace_period;
use tidegate_ebpf_shared::{
    addr::AddrPrefix, event::Counter, identity::AddrInfo, service::algorithm,
};
use tidegate_policy::{
    compiled::{
        AddrIdentity, Compiled, CompiledEndpoint, CompiledService, EndpointId, Frontend, Generation,
    },
    shared::{Map, changes},
};

use super::{
    AttachReport, Datapath, DatapathError, binding::with_cause, deny_slots, diff::Change, encode,
    policy_tables, service_tables, tables::Tables,
};

/// What publishing a generation changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// The generation, now active.
    pub generation: Generation,
    /// Entries written and deleted, by table, where any were.
    pub changes: Vec<TableChange>,
    /// Programs attached and detached.
    pub attach: AttachReport,
}

/// How much of a table a generation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// Map name.
    pub table: &'static str,
    /// Entries written.
    pub written: usize,
    /// Entries deleted.
    pub deleted: usize,
}

/// Everything that must change, known to fit.
struct Plan {
    policy: policy_tables::Plan,
    services: service_tables::Plan,
    ipcache: Change<AddrPrefix, AddrInfo>,
    deny_list: deny_slots::Plan,
}

/// What a generation takes, worked out when it was asked whether it fits.
pub(super) struct Prepared {
    step: Generation,
    compiled: Compiled,
    plan: Plan,
}

/// What the tables that only this process writes are known to say: the next generation is
/// compared with that, at the price of what is different. Of a generation of which something
/// could not be written, or that somebody else wrote to, nothing is known; then everything is
/// compared with what the kernel has.
#[derive(Default)]
pub(super) struct Written {
    /// The generation in force, once this process has published one.
    compiled: Compiled,
    /// What tables say of it.
    known: Option<Known>,
}

/// What tables say of the generation in force.
struct Known {
    policy: policy_tables::State,
    services: service_tables::State,
    denied: deny_slots::State,
}

impl Written {
    /// Somebody else wrote to a table.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }
}

impl Datapath {
    /// Makes `compiled` the policy of this node, as generation `generation`.
    ///
    /// Nothing is changed if a table would not hold it. Traffic meets either the old
    /// generation or the new one; a flow of the old one is decided again by its next
    /// packet. The same content published again changes nothing but the number.
    pub fn publish(
        &mut self,
        generation: Generation,
        compiled: &Compiled,
    ) -> Result<PublishReport, DatapathError> {
        let active = self.generation();
        if generation <= active {
            return Err(DatapathError::StaleGeneration {
                given: generation,
                active,
            });
        }
        // Numbers may have been skipped, but a step needs the slot that is not in use.
        let step = if policy_tables::slot(generation) == policy_tables::slot(active) {
            Generation(generation.get() - 1)
        } else {
            generation
        };
        let prepared = self.prepared.take();
        let as_is = prepared.filter(|it| {
            policy_tables::slot(it.step) == policy_tables::slot(step) && it.compiled == *compiled
        });
        let plan = match as_is {
            Some(prepared) => prepared.plan,
            None => self.plan(step, compiled)?,
        };
        // Until all of it is written nothing is known.
        self.written.forget();
        let is_settled = !self.write(&plan, compiled)?;
        self.tables.generation.put(&0, &step.get())?;
        self.last_policy_id = plan.policy.last_policy_id;
        self.written.compiled = compiled.clone();
        self.reach.expect(!compiled.l7.is_empty());
        self.changed_by_others.clear();
        self.names.replace(compiled.fqdn.keys().copied());
        let mut state = plan.policy.state.clone();
        if step != generation {
            self.copy_slots(step)?;
            self.tables.generation.put(&0, &generation.get())?;
            // Both slots are other ones than planned.
            state = None;
        }
        // It is in force. Only now do new endpoints get their programs: attaching to many
        // takes seconds, and one without a policy of the generation in force is closed.
        //
        // What goes wrong from here on leaves leftovers, which the next generation clears
        // away; it does not undo this one.
        let deleted = self.delete(&plan);
        if deleted.is_ok() {
            self.written.known = state.map(|policy| Known {
                policy,
                services: plan.services.state.clone(),
                denied: plan.deny_list.state.clone(),
            });
        }
        let attached = match is_settled {
            true => Ok(AttachReport::default()),
            false => self.attach_pending(),
        };
        let mut attach = attached.unwrap_or_else(|error| AttachReport {
            failed: vec![with_cause(&error)],
            ..AttachReport::default()
        });
        if let Err(error) = deleted {
            attach.failed.push(with_cause(&error));
        }
        Ok(PublishReport {
            generation,
            changes: plan.summary(&self.tables),
            attach,
        })
    }

    /// Would the tables hold this as the next generation, next to the one in force? What was
    /// found out is kept for [`Datapath::publish`].
    pub fn fits(&mut self, compiled: &Compiled) -> Result<(), DatapathError> {
        let step = self.generation().next();
        let plan = self.plan(step, compiled)?;
        self.prepared = Some(Prepared {
            step,
            compiled: compiled.clone(),
            plan,
        });
        Ok(())
    }

    /// Compares what is with what should be; fails if it would not fit.
    ///
    /// Devices are those of the last look: what has come or gone since is put right by the
    /// round that its news bring about.
    fn plan(&mut self, generation: Generation, compiled: &Compiled) -> Result<Plan, DatapathError> {
        self.forget_what_tables_forgot();
        let tables = &self.tables;
        let (endpoints, rows) = (tables.endpoints.content()?, tables.policy.content()?);
        let current = policy_tables::Current {
            endpoints: &endpoints,
            rows: &rows,
            generation: self.generation(),
            last_policy_id: self.last_policy_id,
        };
        let devices = self.bindings.devices();
        let ifindex = |endpoint: &CompiledEndpoint| devices.of_endpoint(endpoint).unwrap_or(0);
        let is_there = |workload| devices.have(compiled, workload);
        let before = &self.written.compiled;
        let known = self.written.known.as_ref();
        let stepped = known.and_then(|known| {
            let both = (&before.endpoints, &compiled.endpoints);
            policy_tables::step(&known.policy, both, &ifindex, generation, &current)
        });
        let policy = match stepped {
            Some(plan) => plan,
            None => policy_tables::plan(&compiled.endpoints, &ifindex, generation, &current),
        };
        policy.endpoints.check(&tables.endpoints)?;
        policy.rows.check(&tables.policy)?;
        drop((endpoints, rows));
        let moved = changes(&before.endpoints, &compiled.endpoints).map(|change| *change.key);
        let services = self.plan_services(&compiled.services, &mut { moved }, &is_there)?;
        let addresses = tables.ipcache.content()?;
        let ipcache = match known {
            Some(_) => changed_addresses(addresses.len(), before, compiled),
            None => Change::between(&addresses, &encoded(compiled.ipcache.iter())),
        };
        drop(addresses);
        ipcache.check(&tables.ipcache)?;
        let denied = tables.deny_list.content()?;
        let limit = tables.deny_list.limit();
        let deny_list = match known {
            Some(known) => {
                let both = (&before.deny_list, &compiled.deny_list);
                deny_slots::step(&known.denied, both, &denied, limit)
            }
            None => deny_slots::plan(&compiled.deny_list, &denied, limit),
        };
        drop(denied);
        deny_list.list.check(&tables.deny_list)?;
        Ok(Plan {
            policy,
            services,
            ipcache,
            deny_list,
        })
    }

    /// After a failed write nothing is known of a table, and so nothing of what it says.
    fn forget_what_tables_forgot(&mut self) {
        if !self.tables.are_known() {
            self.written.forget();
        }
    }

    /// Brings the services in line with the workloads that are there: one that has no
    /// device any more is not chosen, one that has got it is.
    pub(super) fn refresh_services(&mut self) -> Result<(), DatapathError> {
        self.forget_what_tables_forgot();
        let compiled = self.written.compiled.clone();
        let devices = self.bindings.devices();
        let is_there = |workload| devices.have(&compiled, workload);
        let workloads: Vec<EndpointId> = match &self.written.known {
            Some(known) => known.services.workloads().collect(),
            None if leads_to_workloads(&compiled) => Vec::new(),
            None => return Ok(()),
        };
        let plan = self.plan_services(&compiled.services, &mut workloads.into_iter(), &is_there)?;
        if !plan.is_empty() {
            // What was prepared goes by the tables as they were.
            self.prepared = None;
            let known = self.written.known.take();
            write_services(&self.tables, &plan)?;
            wait_for_readers();
            self.tables.slots.delete_all(&plan.slots.delete)?;
            self.tables.backends.delete_all(&plan.backends.delete)?;
            self.written.known = known.map(|known| Known {
                services: plan.state,
                ..known
            });
        }
        Ok(())
    }

    /// Plans the services of `compiled`, known to fit. `may_have_moved` are workloads that
    /// may be there now and were not, or the other way round.
    fn plan_services(
        &self,
        desired: &Map<Frontend, Arc<CompiledService>>,
        may_have_moved: &mut dyn Iterator<Item = EndpointId>,
        is_there: &dyn Fn(EndpointId) -> bool,
    ) -> Result<service_tables::Plan, DatapathError> {
        let tables = &self.tables;
        let known = self.written.known.as_ref();
        let (slots, backends) = (tables.slots.content()?, tables.backends.content()?);
        let services = tables.services.content()?;
        let maglev = match known {
            Some(_) => tables.maglev.known(),
            None => {
                let in_use = services
                    .values()
                    .filter(|entry| entry.algorithm == algorithm::MAGLEV)
                    .map(|entry| entry.maglev);
                tables.maglev.in_use(in_use)?
            }
        };
        let current = service_tables::Current {
            services: &services,
            slots: &slots,
            backends: &backends,
            maglev: &maglev,
            maglev_limit: tables.maglev.limit(),
        };
        let plan = match known {
            Some(known) => {
                let both = (&self.written.compiled.services, desired);
                service_tables::step(&known.services, both, may_have_moved, is_there, &current)?
            }
            None => service_tables::plan(desired, is_there, &current)?,
        };
        drop((services, slots, backends, maglev));
        check_services(tables, &plan)?;
        Ok(plan)
    }

    /// Writes all that is new. Ordered so that nothing points at something that is
    /// not there yet.
    ///
    /// Identities of addresses change completely here, deletions too: a flow decided
    /// from now on with a mix of old policy and new identities carries the old
    /// generation's number and is decided again after the flip. The other way round
    /// the mix would be kept for the flow's life.
    ///
    /// Says whether a round of attaching is due.
    fn write(&mut self, plan: &Plan, compiled: &Compiled) -> Result<bool, DatapathError> {
        let tables = &self.tables;
        write_services(tables, &plan.services)?;
        tables.policy.put_all(&plan.policy.rows.put)?;
        tables.endpoints.put_all(&plan.policy.endpoints.put)?;
        tables.ipcache.put_all(&plan.ipcache.put)?;
        tables.ipcache.delete_all(&plan.ipcache.delete)?;
        for (_, slot) in &plan.deny_list.list.put {
            tables.deny_counts.fill(*slot, Counter::default())?;
        }
        tables.deny_list.put_all(&plan.deny_list.list.put)?;
        Ok(self.bindings.declare(&compiled.endpoints))
    }

    /// Deletes all that is old, after the programs that may still read it are done.
    fn delete(&self, plan: &Plan) -> Result<(), DatapathError> {
        let tables = &self.tables;
        tables.services.delete_all(&plan.services.services.delete)?;
        tables.deny_list.delete_all(&plan.deny_list.list.delete)?;
        tables.endpoints.delete_all(&plan.policy.endpoints.delete)?;
        wait_for_readers();
        tables.slots.delete_all(&plan.services.slots.delete)?;
        tables.backends.delete_all(&plan.services.backends.delete)?;
        tables.policy.delete_all(&plan.policy.rows.delete)
    }

    /// Gives every endpoint the same policy in the slot `generation` does not use.
    fn copy_slots(&self, generation: Generation) -> Result<(), DatapathError> {
        let used = policy_tables::slot(generation);
        for (id, mut info) in self.tables.endpoints.entries()? {
            info.policy_id = [info.policy_id[used]; 2];
            self.tables.endpoints.put(&id, &info)?;
        }
        Ok(())
    }
}

impl Plan {
    fn summary(&self, tables: &Tables) -> Vec<TableChange> {
        /// One line per change.
        macro_rules! lines {
            ($($table:ident: $change:expr),+) => {
                vec![$(TableChange {
                    table: tables.$table.name(),
                    written: $change.put.len(),
                    deleted: $change.delete.len(),
                }),+]
            };
        }
        let mut lines = lines!(
            endpoints: self.policy.endpoints,
            policy: self.policy.rows,
            ipcache: self.ipcache,
            services: self.services.services,
            slots: self.services.slots,
            backends: self.services.backends,
            deny_list: self.deny_list.list
        );
        lines.retain(|line| line.written + line.deleted > 0);
        lines
    }
}

fn check_services(tables: &Tables, plan: &service_tables::Plan) -> Result<(), DatapathError> {
    plan.services.check(&tables.services)?;
    plan.slots.check(&tables.slots)?;
    plan.backends.check(&tables.backends)
}

/// Writes what is new of the services, in an order in which nothing points at something
/// that is not there yet.
fn write_services(tables: &Tables, plan: &service_tables::Plan) -> Result<(), DatapathError> {
    for (number, content) in &plan.maglev {
        tables.maglev.put(*number, content)?;
    }
    tables.backends.put_all(&plan.backends.put)?;
    tables.slots.put_all(&plan.slots.put)?;
    tables.services.put_all(&plan.services.put)
}

fn leads_to_workloads(compiled: &Compiled) -> bool {
    let services = compiled.services.values();
    services
        .flat_map(|service| &service.backends)
        .any(|backend| backend.workload.is_some())
}

/// Changes of `IPCACHE`, which has what `before` says.
fn changed_addresses(
    entries: usize,
    before: &Compiled,
    now: &Compiled,
) -> Change<AddrPrefix, AddrInfo> {
    let changed = || changes(&before.ipcache, &now.ipcache);
    let had = changed().filter_map(|change| Some((change.key, change.before?)));
    let wanted = changed().filter_map(|change| Some((change.key, change.now?)));
    Change::within(entries, &encoded(had), &encoded(wanted))
}

fn encoded<'c>(
    lines: impl Iterator<Item = (&'c IpNet, &'c AddrIdentity)>,
) -> HashMap<AddrPrefix, AddrInfo> {
    lines
        .map(|(net, info)| {
            let info = AddrInfo {
                identity: info.identity.get(),
                endpoint: info.endpoint.unwrap_or_default().get(),
            };
            (encode::prefix(*net), info)
        })
        .collect()
}

/// Waits until no program run that began before now is left.
fn wait_for_readers() {
    if grace_period().is_err() {
        // Not available with nohz_full; program runs last microseconds.
        std::thread::sleep(Duration::from_millis(50));
    }
}
