//! Which of a service's backends are chosen, and how often. Pure.

use tidegate_decide::service::member_slot;
use tidegate_ebpf_shared::{addr::proto, service::SlotKey};
use tidegate_policy::compiled::{BackendState, CompiledBackend, CompiledService, EndpointId};

use super::ids::BackendIds;
use crate::{encode, maglev::Candidate};

/// Most slots one service takes to express its backends' weights.
const MAX_WEIGHT_SLOTS: u64 = 1_024;

/// Where a datagram socket finds that the backend it used before is still there: while
/// it is active, or terminating, which is to keep whom it serves.
pub(super) fn members(
    service: &CompiledService,
    ids: &mut BackendIds,
    is_there: &dyn Fn(EndpointId) -> bool,
) -> Vec<(SlotKey, u32)> {
    let keeps = |backend: &&CompiledBackend| {
        service.protocol == proto::UDP
            && backend.workload.is_none_or(is_there)
            && matches!(
                backend.state,
                BackendState::Active | BackendState::Terminating
            )
    };
    let backends = service.backends.iter().filter(keeps);
    backends
        .map(|backend| {
            let addr = encode::addr(backend.addr);
            let slot = SlotKey {
                service: service.id.get(),
                slot: member_slot(&addr, backend.port.to_be_bytes()),
            };
            (slot, ids.id(service.protocol, backend))
        })
        .collect()
}

/// Active backends; if there is none, those that terminate but still answer. One that
/// weighs nothing, or whose workload is not there, gets no connection in either case.
pub(super) fn usable<'b>(
    backends: &'b [CompiledBackend],
    is_there: &dyn Fn(EndpointId) -> bool,
) -> Vec<&'b CompiledBackend> {
    let answers: Vec<&CompiledBackend> = backends
        .iter()
        .filter(|b| b.weight > 0 && b.workload.is_none_or(is_there))
        .collect();
    let of = |state| {
        let all = answers.iter().copied();
        all.filter(|b| b.state == state).collect::<Vec<_>>()
    };
    let active = of(BackendState::Active);
    if active.is_empty() {
        of(BackendState::Terminating)
    } else {
        active
    }
}

/// Backend ids with each repeated by its weight, in lowest terms. Weights that would
/// take more than [`MAX_WEIGHT_SLOTS`] are rounded, each to at least one slot.
pub(super) fn weighted(backends: &[(&CompiledBackend, u32)]) -> Vec<u32> {
    let weights: Vec<u64> = backends
        .iter()
        .map(|(b, _)| b.weight.max(1).into())
        .collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
    backends
        .iter()
        .zip(&weights)
        .flat_map(|((_, id), weight)| {
            let share = weight / divisor;
            let slots = if sum > MAX_WEIGHT_SLOTS {
                (share * MAX_WEIGHT_SLOTS / sum).max(1)
            } else {
                share
            };
            std::iter::repeat_n(*id, slots as usize)
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Backends with the names Cilium hashes.
pub(super) fn candidates(protocol: u8, backends: &[(&CompiledBackend, u32)]) -> Vec<Candidate> {
    let protocol = match protocol {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        proto::SCTP => "SCTP",
        _ => "NONE",
    };
    backends
        .iter()
        .map(|(backend, id)| {
            let address = std::net::SocketAddr::new(backend.addr, backend.port);
            Candidate {
                name: format!("[{address}/{protocol},State:active]"),
                id: *id,
                weight: backend.weight,
            }
        })
        .collect()
}
